package fault

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/topo"
)

const ring = `name: ring
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1, p2]
    links: [{between: [pe1, p1]}, {between: [p1, pe2]}, {between: [pe2, p2]}, {between: [p2, pe1]}]
  sites:
    hq: {kind: enterprise, pe: pe1}
    lab: {kind: cloud, pe: pe2, hosts: 2}
vpcs:
  acme: {service: l3vpn, sites: [hq, lab]}
`

func planOf(t testing.TB, src string) *topo.Plan {
	t.Helper()
	sc, err := topo.Parse("test", []byte(src))
	require.NoError(t, err)
	p, err := topo.Expand(sc)
	require.NoError(t, err)
	return p
}

func ms(n int) topo.Duration { return topo.Duration(time.Duration(n) * time.Millisecond) }

func lines(steps []Step) (out []string) {
	for _, s := range steps {
		out = append(out, fmt.Sprintf("%v %v for %v (%d)", s.At, s.Fault, s.Fault.For.Std(), s.Of))
	}
	return out
}

func TestScheduleOfWhatIsSaid(t *testing.T) {
	link := []string{"pe1", "p1"}
	events := []topo.Event{
		{At: ms(100), Fault: topo.Fault{Kind: topo.FaultNodeCrash, Node: "p2", For: ms(50)}},
		{At: ms(100), Operation: topo.Operation{Do: "leave", VPC: "acme", Site: "hq"}},
		{Fault: topo.Fault{Kind: topo.FaultFlap, Link: link, Every: ms(20), Times: 2}},
		{At: ms(110), Fault: topo.Fault{Kind: topo.FaultLinkSilent, Link: link}},
		{At: ms(150), Fault: topo.Fault{Kind: topo.FaultFlap, Link: link, Every: ms(30), For: ms(5)}},
		{At: ms(200), Fault: topo.Fault{Kind: topo.FaultBGPReset, Node: "pe1"}},
	}
	require.Equal(t, []string{
		"100ms node-crash p2 for 50ms (0)",
		"100ms link-down pe1--p1 for 10ms (2)",
		"110ms link-silent pe1--p1 for 0s (3)",
		"120ms link-down pe1--p1 for 10ms (2)",
		"150ms link-down pe1--p1 for 5ms (4)",
		"180ms link-down pe1--p1 for 5ms (4)",
	}, lines(Schedule(1, planOf(t, ring), events, 200*time.Millisecond)))
}

func churn(more topo.Fault) []topo.Event {
	more.Kind, more.MTBF, more.MTTR = topo.FaultChurn, ms(60_000), ms(3000)
	return []topo.Event{{At: ms(1000), Fault: more}}
}

func TestScheduleIsTheSeeds(t *testing.T) {
	p := planOf(t, ring)
	events := churn(topo.Fault{})
	a := Schedule(1, p, events, time.Hour)
	require.Equal(t, a, Schedule(1, p, events, time.Hour))
	require.NotEqual(t, a, Schedule(2, p, events, time.Hour))
	for _, s := range a {
		require.NoError(t, p.CheckFault(s.Fault))
		require.GreaterOrEqual(t, s.At, time.Second)
		require.LessOrEqual(t, s.At+s.Fault.For.Std(), time.Hour)
	}

	// Half the time gives the first half, and fewer components their part.
	half := Schedule(1, p, events, 30*time.Minute)
	for i := range half {
		require.Equal(t, a[i].At, half[i].At)
		require.Equal(t, a[i].Fault.String(), half[i].Fault.String())
	}
	some := Schedule(1, p, churn(topo.Fault{Of: []string{topo.FaultNodeCrash}, Among: []string{"p1", "p2"}}), time.Hour)
	var of []Step
	for _, s := range a {
		if s.Fault.Node == "p1" || s.Fault.Node == "p2" {
			of = append(of, s)
		}
	}
	require.NotEmpty(t, of)
	require.Equal(t, of, some)
}

// TestChurnKeepsItsMeans holds the drawn times against what was asked for, and
// no component fails while it is broken.
func TestChurnKeepsItsMeans(t *testing.T) {
	p := planOf(t, ring)
	steps := Schedule(7, p, churn(topo.Fault{Of: []string{topo.FaultLinkDown, topo.FaultHostCrash, topo.FaultSiteDown}}), 100*time.Hour)
	var up, down time.Duration
	last := map[string]time.Duration{}
	for _, s := range steps {
		name := s.Fault.String()
		require.GreaterOrEqual(t, s.At, last[name])
		if last[name] > 0 {
			up += s.At - last[name]
		}
		last[name] = s.At + s.Fault.For.Std()
		down += s.Fault.For.Std()
	}
	n := float64(len(steps))
	require.Greater(t, n, 40_000.)
	require.InEpsilon(t, 60, up.Seconds()/n, 4/math.Sqrt(n)+0.002)
	require.InEpsilon(t, 3, down.Seconds()/n, 4/math.Sqrt(n)+0.002)
}
