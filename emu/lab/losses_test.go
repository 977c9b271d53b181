package lab

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

const square = `
name: square
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1, p2]
    recovery: {detect: [carrier]}
    links:
      - {between: [pe1, p1]}
      - {between: [pe1, p2], cost: 20}
      - {between: [pe2, p1]}
      - {between: [pe2, p2], cost: 20}
      - {between: [pe3, p2]}
      - {between: [p1, p2]}
  sites:
    west: {kind: enterprise, pe: pe1}
    east: {kind: enterprise, pe: pe2, backup-pe: pe3}
vpcs:
  x: {service: l3vpn, sites: [west, east]}
`

// said is what routers say, in order: "p1:pe1 down", at what second.
type said struct {
	words string
	at    float64
}

func secondOf(s float64) event.Mono { return event.Mono(s * float64(time.Second)) }

func TestLosses(t *testing.T) {
	plan := planOf(t, square)
	for name, c := range map[string]struct {
		said []said
		at   float64
		lost string
		next float64 // 0: nothing changes by itself
	}{
		"nobody says anything":                 {nil, 1, "", 0},
		"one end is enough":                    {[]said{{"p1:pe1 down", 1}}, 1, "pe1--p1", 0},
		"up that was never down is no news":    {[]said{{"p1:pe1 up", 1}}, 1, "", 0},
		"the other end does not contradict":    {[]said{{"p1:pe1 down", 1}, {"pe1:p1 up", 2}}, 2, "pe1--p1", 0},
		"one end is back, the other not":       {[]said{{"p1:pe1 down", 1}, {"pe1:p1 down", 1}, {"pe1:p1 up", 5}}, 20, "pe1--p1", 0},
		"up counts after a while":              {[]said{{"p1:pe1 down", 1}, {"p1:pe1 up", 5}}, 5.5, "pe1--p1", 6},
		"and then it does":                     {[]said{{"p1:pe1 down", 1}, {"p1:pe1 up", 5}}, 6, "", 0},
		"down again before it counted":         {[]said{{"p1:pe1 down", 1}, {"p1:pe1 up", 5}, {"p1:pe1 down", 5.5}}, 9, "pe1--p1", 0},
		"who falls again waits twice as long":  {[]said{{"p1:pe1 down", 1}, {"p1:pe1 up", 5}, {"p1:pe1 down", 5.5}, {"p1:pe1 up", 6}}, 7.5, "pe1--p1", 8},
		"and four times":                       {[]said{{"p1:pe1 down", 1}, {"p1:pe1 up", 2}, {"p1:pe1 down", 3}, {"p1:pe1 up", 4}, {"p1:pe1 down", 5}, {"p1:pe1 up", 6}}, 9, "pe1--p1", 10},
		"until it has been up for long":        {[]said{{"p1:pe1 down", 1}, {"p1:pe1 up", 2}, {"p1:pe1 down", 3}, {"p1:pe1 up", 4}, {"p1:pe1 down", 30}, {"p1:pe1 up", 31}}, 31.5, "pe1--p1", 32},
		"who has nobody to speak says no more": {[]said{{"p1:pe1 down", 1}, {"p1 silent", 3}}, 3.5, "pe1--p1", 4},
		"and is heard no more":                 {[]said{{"p1:pe1 down", 1}, {"p1 silent", 3}}, 4, "", 0},
		"silence does not bring links down":    {[]said{{"p1 silent", 3}}, 4, "", 0},
		"no link of this plan":                 {[]said{{"p7:p8 down", 1}}, 1, "", 0},
		"two at once":                          {[]said{{"p1:pe1 down", 1}, {"pe3:p2 down", 1}, {"p2:pe3 down", 1}}, 1, "pe1--p1 pe3--p2", 0},
	} {
		l := newLosses()
		for _, s := range c.said {
			what, word, _ := strings.Cut(s.words, " ")
			node, dev, _ := strings.Cut(what, ":")
			if word == "silent" {
				l.silent(node, secondOf(s.at))
			} else {
				l.say(node, dev, word == "up", secondOf(s.at))
			}
		}
		lost, next := l.at(plan, secondOf(c.at))
		if got := strings.Join(between(lost), " "); got != c.lost || next != secondOf(c.next) {
			t.Errorf("%s: lost are %q until %v, want %q until %v", name, got, next, c.lost, secondOf(c.next))
		}
	}
}

func TestCalmIsNotForever(t *testing.T) {
	l, plan := newLosses(), planOf(t, square)
	at := 0.0
	for range 20 {
		l.say("p1", "pe1", false, secondOf(at))
		l.say("p1", "pe1", true, secondOf(at+1))
		at += 2
	}
	_, next := l.at(plan, secondOf(at))
	require.Equal(t, secondOf(at-1)+event.Mono(mostCalm), next)
}

// losing is the plan as the controller has it after some words.
func losing(t *testing.T, plan *topo.Plan, ends ...string) *topo.Plan {
	t.Helper()
	l := newLosses()
	for _, e := range ends {
		node, dev, _ := strings.Cut(e, ":")
		l.say(node, dev, false, 1)
	}
	lost, _ := l.at(plan, 1)
	require.NotEmpty(t, lost)
	return plan.Without(linkNames(lost)...)
}

func TestApartIsWhoLostAllNeighbours(t *testing.T) {
	plan := planOf(t, square)
	require.Empty(t, apart(plan))
	require.Empty(t, apart(losing(t, plan, "pe1:p1", "pe2:p1")), "p2 still has it")
	require.Equal(t, map[string]bool{"p1": true}, apart(losing(t, plan, "pe1:p1", "pe2:p1", "p2:p1")))
	require.Equal(t, map[string]bool{"pe3": true}, apart(losing(t, plan, "p2:pe3")), "a PE on one link")
	require.Equal(t, map[string]bool{"p1": true, "pe2": true}, apart(losing(t, plan, "pe1:p1", "p2:p1", "p2:pe2")), "two that still have each other, as nobody is left to say more")
}

// Nobody waits for routes that what is lost may take away, or not.
func TestUnsureRoutes(t *testing.T) {
	plan := planOf(t, square)
	east, vrf := netip.MustParsePrefix("10.1.2.0/24"), "vrf-x"
	pe2, pe3 := netip.MustParseAddr("10.255.0.2"), netip.MustParseAddr("10.255.0.3")
	require.Nil(t, unsureRoutes(plan, nil))

	half := losing(t, plan, "pe2:p1", "pe2:p2") // its first PE is gone
	want := expectedRoutes(half)
	require.Equal(t, pe3, want[routeKey{"pe1", vrf, east}])
	unsure := unsureRoutes(half, nil)
	require.False(t, unsure(routeKey{"pe1", vrf, east}, pe3))
	require.True(t, unsure(routeKey{"pe1", vrf, east}, pe2))
	require.True(t, unsure(routeKey{"pe2", vrf, netip.MustParsePrefix("10.1.1.0/24")}, netip.Addr{}), "what is at a router that is apart")

	both := losing(t, plan, "pe2:p1", "pe2:p2", "pe3:p2")
	want = expectedRoutes(both)
	require.Equal(t, pe2, want[routeKey{"pe1", vrf, east}], "it stays where it is")
	tab := newRouteTable()
	tab.want(nil, unsureRoutes(both, nil))
	missing, extra := tab.diff(want)
	require.Empty(t, append(missing, extra...), "and is not waited for")
}
