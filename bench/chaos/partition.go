package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// lose has each of nodes lose what its matches say, for a while. Every single match
// has to have taken something.
func (r *run) lose(span time.Duration, matches map[int][]string) (string, error) {
	var errs []error
	for i, all := range matches {
		for _, m := range all {
			errs = append(errs, drop(i, m))
		}
	}
	if errors.Join(errs...) == nil {
		pause(span)
	}
	total := 0
	for i, all := range matches {
		dropped, err := mend(i)
		errs = append(errs, err)
		if len(dropped) != len(all) {
			errs = append(errs, fmt.Errorf("%d rules in node %d, want %d", len(dropped), i, len(all)))
		}
		for j, n := range dropped {
			if total += n; n == 0 && !strings.HasPrefix(all[j], "out") { // an out that has nothing left to say
				errs = append(errs, fmt.Errorf("node %d lost nothing of: %s", i, all[j]))
			}
		}
	}
	if total == 0 {
		return "", errors.Join(errs...)
	}
	return fmt.Sprintf("%d packets lost", total), errors.Join(errs...)
}

// others returns the addresses of the nodes but some, for nft.
func (r *run) others(but ...int) string {
	var all []string
	for _, n := range r.nodes {
		if !slices.Contains(but, n.index) {
			all = append(all, nodeAt(n.index))
		}
	}
	return "{ " + strings.Join(all, ", ") + " }"
}

// split cuts the smaller half off: both have S2 and clients.
func split(r *run) (string, error) {
	var small []int
	for _, n := range r.nodes[:(len(r.nodes)-1)/2] {
		small = append(small, n.index)
	}
	matches := map[int][]string{}
	for _, i := range small {
		matches[i] = []string{"in ip saddr " + r.others(small...), "out ip daddr " + r.others(small...)}
	}
	return r.lose(r.span(7*time.Second, 40*time.Second), matches)
}

func dark(r *run) (string, error) {
	i := r.victim().index
	return r.lose(r.span(8*time.Second, 15*time.Second), map[int][]string{i: {"in ip saddr 0.0.0.0/0", "out ip daddr 0.0.0.0/0"}})
}

func oneway(r *run) (string, error) {
	i := r.victim().index
	return r.lose(r.span(8*time.Second, 20*time.Second), map[int][]string{i: {"in ip saddr " + r.others(i)}})
}

func noudp(r *run) (string, error) {
	matches := map[int][]string{}
	for _, n := range r.nodes {
		matches[n.index] = []string{"in meta l4proto udp"}
	}
	return r.lose(r.span(8*time.Second, 30*time.Second), matches)
}

func loss(r *run) (string, error) {
	matches := map[int][]string{}
	for _, n := range r.nodes {
		matches[n.index] = []string{"in ip saddr " + r.others(n.index) + " numgen random mod 100 < 5"}
	}
	return r.lose(r.span(8*time.Second, 30*time.Second), matches)
}

func cutStore(r *run) (string, error) {
	i := r.victim().index
	return r.lose(r.span(8*time.Second, 20*time.Second), map[int][]string{i: {"in ip saddr " + storeAt, "out ip daddr " + storeAt}})
}
