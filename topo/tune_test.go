package topo

import "testing"

func TestTuneChangesOneWayOnly(t *testing.T) {
	p := mustExpand(t, mustParse(t, `
name: tune
topology:
  backbone:
    pe: [a, b, c]
    p: [p]
    links:
      - {between: [a, p], rate: 10mbit, delay: 1ms, jitter: 0.1ms}
      - {between: [p, b], rate: 10mbit, delay: 1ms}
      - {between: [p, c], rate: 10mbit, delay: 1ms}
`))
	before := p.Links[0].AtoB
	q := p.Tune([]string{"a", "p", "b"}, func(Impairment) Impairment {
		return Impairment{Rate: 100e6, Delay: Duration(10e6)}
	})
	for _, l := range q.Links {
		tuned := l.AtoB.Rate == 100e6 && l.BtoA.Rate == 100e6 && l.AtoB.Delay == Duration(10e6) && l.AtoB.Jitter == 0 && l.BtoA.Queue == 100+333
		if on := l.Core && l.A.Node != "rr" && l.B.Node != "rr" && l.A.Node != "c" && l.B.Node != "c"; tuned != on {
			t.Errorf("%s: %+v", l.Name(), l.AtoB)
		}
	}
	if p.Links[0].AtoB != before {
		t.Error("the plan it was made from has changed")
	}
}
