package access

import (
	"slices"
)

// addOwn adds what the token's own entries grant: those of our type in authorization_details (RFC
// 9396), and those of the claim that the issuer's grants_claim names. An entry that is malformed,
// or has a member that this release does not know, makes the whole token invalid: to ignore a
// restriction would grant more than was meant.
func (i *issuer) addOwn(pr *Principal, claims Claims, projects []string) *Refusal {
	entries, no := i.ownEntries(claims)
	if no != nil {
		return no
	}
	if len(entries) > maxGrants {
		return refuse(ReasonBadGrants, "the token has more than %d grants", maxGrants)
	}
	patterns := 0
	for _, e := range entries {
		g, project, no := parseEntry(e)
		if no != nil {
			return no
		}
		if patterns += len(g.Patterns) + len(g.Names); patterns > maxPatterns {
			return refuse(ReasonBadGrants, "the token's grants have more than %d patterns and names", maxPatterns)
		}
		switch {
		case project == "" && len(projects) != 1:
			return refuse(ReasonBadGrants, "a grant of the token names no project, and the token is not for just one")
		case project == "":
			project = projects[0]
		case !slices.Contains(projects, project):
			return refuse(ReasonBadGrants, "a grant of the token names the project %.64q, which the token is not for", project)
		}
		if pr.own == nil {
			pr.own = map[string]grants{}
		}
		pr.own[project] = append(pr.own[project], g)
	}
	return nil
}

// ownEntries lists the token's entries that are meant for us.
func (i *issuer) ownEntries(claims Claims) (entries []map[string]any, no *Refusal) {
	for _, from := range []struct {
		claim string
		typed bool // entries of other types are other services'
	}{{"authorization_details", true}, {i.grantsClaim, false}} {
		v, ok := claims.lookup(from.claim)
		if from.claim == "" || !ok {
			continue
		}
		array, ok := v.([]any)
		if !ok {
			return nil, refuse(ReasonBadGrants, "the token's %s is not an array", from.claim)
		}
		for _, v := range array {
			e, ok := v.(map[string]any)
			if !ok {
				return nil, refuse(ReasonBadGrants, "an entry of the token's %s is not an object", from.claim)
			}
			typ, has := e["type"]
			if from.typed && typ != detailType || !from.typed && has && typ != detailType || !i.isLocatedHere(e) {
				continue
			}
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// isLocatedHere reports whether an entry's locations (RFC 9396), if it has any, name one of
// the issuer's audiences.
func (i *issuer) isLocatedHere(e map[string]any) bool {
	locations, ok := e["locations"]
	if !ok {
		return true
	}
	array, ok := locations.([]any)
	return ok && slices.ContainsFunc(array, func(v any) bool {
		s, ok := v.(string)
		return ok && slices.Contains(i.audience, s)
	})
}

// parseEntry parses one entry of a token.
func parseEntry(e map[string]any) (g Grant, project string, no *Refusal) {
	lists := map[string][]string{}
	for member, v := range e {
		switch member {
		case "type", "locations":
		case "project":
			s, ok := v.(string)
			if !ok || s == "" {
				return g, "", refuse(ReasonBadGrants, "the project of a grant is not a name")
			}
			project = s
		case "actions", "streams", "names":
			list, ok := stringList(v)
			if !ok {
				return g, "", refuse(ReasonBadGrants, "the %s of a grant are not a list of strings", member)
			}
			lists[member] = list
		default:
			return g, "", refuse(ReasonBadGrants, "a grant of the token has the member %.64q, which this release does not know", member)
		}
	}
	g.Actions, g.Names = parseActions(lists["actions"]), lists["names"]
	for _, name := range g.Names {
		if err := checkName(name); err != nil {
			return g, "", refuse(ReasonBadGrants, "a name of a grant, %.64q: %s", name, err)
		}
	}
	for _, s := range lists["streams"] {
		p, err := ParsePattern(s, false)
		if err != nil {
			return g, "", refuse(ReasonBadGrants, "a pattern of a grant, %.64q: %s", s, err)
		}
		g.Patterns = append(g.Patterns, p)
	}
	return g, project, nil
}

func stringList(v any) (list []string, ok bool) {
	array, ok := v.([]any)
	if !ok {
		return nil, false
	}
	for _, v := range array {
		s, ok := v.(string)
		if !ok {
			return nil, false
		}
		list = append(list, s)
	}
	return list, true
}
