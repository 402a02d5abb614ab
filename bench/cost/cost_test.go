package main

import (
	"math"
	"strings"
	"testing"
)

// ideal is a fleet that asks of S2 what it has to.
var ideal = units{append: ops{appends: 1}, followed: ops{minutes: 1}, deploy: ops{minutes: 2}}

func TestBill(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		appends float64
		size    size
		want    bill
	}{
		// 43,200 minutes a month: a session is $0.0432.
		{"sessions alone", 0, size{100_000, 1_000, 10, 0}, bill{4320, 431.988526, 43.2}},
		{"a reader for each stream", 0, size{1_000, 1_000, 10, 0}, bill{43.2, 43.2, 43.2}},
		{"fewer readers than streams", 0, size{100, 1_000, 3, 0}, bill{4.32, 4.32, 4.32}},
		{"one node", 0, size{1_000, 100, 1, 0}, bill{43.2, 4.32, 4.32}},
		// 100 streams × 43,200 appends × $0.0000001 = $0.432.
		{"appends", 1, size{1_000, 100, 1, 0}, bill{43.632, 4.752, 4.752}},
		// 150 deploys a month begin 150 minutes: 1,000 readers, $0.15; 100 streams, $0.015;
		// two moves of each of 100 streams, $0.03.
		{"deploys", 0, size{1_000, 100, 1, 5}, bill{43.35, 4.335, 4.35}},
		{"nobody", 1, size{0, 100, 3, 5}, bill{}},
	} {
		got := model{ideal, c.appends}.bill(c.size)
		for i, p := range [][2]float64{
			{got.naive, c.want.naive}, {got.perNode, c.want.perNode}, {got.fantail, c.want.fantail},
		} {
			if math.Abs(p[0]-p[1]) > 1e-6 {
				t.Errorf("%s, %s: %v, want %v", c.name, designs[i].name, p[0], p[1])
			}
		}
	}
}

// Without sessions a tail check is its stream's. Reads and appends in silence are always the node's.
func TestUnitsWithoutSessions(t *testing.T) {
	t.Parallel()
	u := counts{followed: ops{appends: 36, reads: 18, checks: 90}, owners: 3}.units(load{streams: 30, appends: 5, reads: "auto"})
	if u.followed != (ops{checks: 3}) || u.node != (ops{appends: 12, reads: 6}) {
		t.Errorf("%+v", u)
	}
}

// A tail check is its node's, everything else its stream's.
func TestUnits(t *testing.T) {
	t.Parallel()
	u := counts{
		followed: ops{checks: 63, minutes: 30}, owners: 3,
		deployed: ops{checks: 30, sessions: 60, minutes: 70}, deploying: 0.5,
		appended: ops{appends: 150, minutes: 30},
	}.units(load{streams: 30, appends: 5})
	want := units{
		append:   ops{appends: 1},
		followed: ops{minutes: 1},
		node:     ops{checks: 21},
		deploy:   ops{sessions: 2, minutes: 2}, // 31.5 checks were to be expected anyway
	}
	if u != want {
		t.Errorf("%+v, want %+v", u, want)
	}
	// 3 nodes × 43,200 minutes × 21 checks × $0.0000001.
	if got := (model{u, 0}).probes(size{1, 1, 3, 0}); math.Abs(got-0.27216) > 1e-9 {
		t.Errorf("probes: $%v", got)
	}
}

func TestDollars(t *testing.T) {
	t.Parallel()
	o := ops{appends: 10, reads: 1, checks: 10, creates: 1, sessions: 5, minutes: 2}
	if got := o.dollars(); math.Abs(got-15e-6) > 1e-12 {
		t.Errorf("%v, want 0.000015", got)
	}
}

func TestPlot(t *testing.T) {
	t.Parallel()
	svg := string(model{ideal, 1}.plot())
	if n := strings.Count(svg, "<polyline"); n != 5 || strings.Contains(svg, "NaN") {
		t.Errorf("%d lines in\n%s", n, svg)
	}
}
