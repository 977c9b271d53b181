package fidelity

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// TestMain lets this test binary be what a calibration, and its lab, start in
// nodes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		body, is := map[string]func() error{LoadVerb: func() error { return Load(os.Stdin, os.Stdout) }, "speaker": speakerBody}[os.Args[1]]
		if is {
			if err := body(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func speakerBody() error {
	conn, err := bgp.ControlConn()
	if err != nil {
		return err
	}
	return bgp.RunSpeaker(context.Background(), conn)
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func newLab() *lab.Lab { return lab.New(lab.Config{Name: Name, Substrate: "uml"}) }

// measured does some tests on l.
func measured(t *testing.T, l Lab, q Request) []metrics.Calibrated {
	t.Helper()
	c, err := Run(limit(t), l, q, nil)
	if c != nil {
		for _, r := range c.Results {
			t.Logf("%s %s, %s: %s, %.3g of %.3g %s, n = %d: %s %s", r.Test, r.What, r.Set, r.Measured, r.Error, r.Bar, r.Unit, r.N, r.Grade, r.Note)
		}
		require.Empty(t, c.Peers)
	}
	require.NoError(t, err)
	return c.Results
}

// grades of the measurements of some thing.
func grades(all []metrics.Calibrated, what string) (found []string) {
	for _, r := range all {
		if r.What == what {
			found = append(found, r.Grade)
		}
	}
	return found
}

// What does not depend on how busy the machine is must be right on any.
func TestCountsAreRight(t *testing.T) {
	kerneltest.Need(t)
	all := measured(t, newLab(), Request{Only: []string{"F4", "F10"}, Quick: true})
	for _, what := range []string{"loss", "split horizon and isolation"} {
		require.NotContains(t, grades(all, what), metrics.FidelityVoid, what)
	}
	require.Equal(t, []string{metrics.FidelityPass, metrics.FidelityPass}, grades(all, "label stacks"))
	require.Equal(t, []string{metrics.FidelityPass}, grades(all, "label stacks after a MAC moves"))
}

// wrongLab makes links that are not what was asked for.
type wrongLab struct {
	Lab
	spoil func(l *topo.Link)
}

func (w *wrongLab) Apply(ctx context.Context, plan *topo.Plan) (*lab.Timeline, error) {
	wrong := *plan
	wrong.Links = slices.Clone(plan.Links)
	for i := range wrong.Links {
		w.spoil(&wrong.Links[i])
	}
	return w.Lab.Apply(ctx, &wrong)
}

// A calibration that could not fail would be worth nothing.
func TestWrongLinksAreFound(t *testing.T) {
	kerneltest.Need(t)
	for _, c := range []struct {
		name  string
		q     Request
		what  string
		spoil func(i *topo.Impairment)
		// A busy machine makes links void by itself: one must be, and show that
		// it is what was done to it.
		shows func(v map[string]float64) bool
	}{
		{"four times slower", Request{Only: []string{"F1"}, From: 10e6, UpTo: 10e6}, "inter-packet gap", func(i *topo.Impairment) { i.Rate /= 4 },
			func(v map[string]float64) bool { return v["median_percent"] > 290 && v["median_percent"] < 310 }},
		{"half the rate", Request{Only: []string{"F2"}, From: 10e6, UpTo: 10e6}, "UDP goodput", func(i *topo.Impairment) { i.Rate /= 2 },
			func(v map[string]float64) bool { return v["error_percent"] < -49 && v["error_percent"] > -52 }},
		{"3 % too fast", Request{Only: []string{"F2"}, From: 10e6, UpTo: 10e6}, "UDP goodput", func(i *topo.Impairment) { i.Rate += i.Rate * 3 / 100 },
			func(v map[string]float64) bool { return v["error_percent"] > 2.5 && v["error_percent"] < 3.5 }},
		{"5 ms late", Request{Only: []string{"F3"}}, "one-way delay", func(i *topo.Impairment) {
			if i.Delay == 5e6 {
				i.Delay += 5e6
			}
		}, func(v map[string]float64) bool { return v["set_ms"] == 5 && v["median_ms"] > 10 }},
		{"twice the jitter", Request{Only: []string{"F3"}}, "jitter", func(i *topo.Impairment) { i.Jitter *= 2 },
			func(v map[string]float64) bool { return v["bias_percent"] > 80 }},
		{"two packets in a hundred more lost", Request{Only: []string{"F4"}}, "loss", func(i *topo.Impairment) {
			if i.Loss == 1 {
				i.Loss = 3
			}
		}, func(v map[string]float64) bool { return v["set"] == 0.01 && v["low"] > 0.01 }},
		{"three packets too long a queue", Request{Only: []string{"F6"}}, "drops of a full queue", func(i *topo.Impairment) { i.Queue += 3 },
			func(v map[string]float64) bool { return v["expected"]-v["dropped"] >= 2 }},
	} {
		c.q.Quick = true
		all := measured(t, &wrongLab{newLab(), func(l *topo.Link) { c.spoil(&l.AtoB) }}, c.q)
		require.True(t, slices.ContainsFunc(all, func(r metrics.Calibrated) bool {
			return r.What == c.what && r.Grade == metrics.FidelityVoid && c.shows(r.Values)
		}), "%s: not found", c.name)
	}
}

func TestALongerWayIsFound(t *testing.T) {
	kerneltest.Need(t)
	all := measured(t, &wrongLab{newLab(), func(l *topo.Link) {
		if l.AtoB.Delay > 5e6 {
			l.AtoB.Delay += 5e6
		}
	}}, Request{Only: []string{"F5"}, Quick: true})
	require.Equal(t, []string{metrics.FidelityVoid}, grades(all, "round trip against the sum of links"))
}

// TestASwappedLabelIsFound sends the LSP to pe2 over a label that the plan does
// not have. Every packet arrives; the labels alone tell.
func TestASwappedLabelIsFound(t *testing.T) {
	kerneltest.Need(t)
	ctx, l := limit(t), newLab()
	t.Cleanup(func() { require.NoError(t, l.Destroy(context.WithoutCancel(ctx))) })
	plan, err := labelPlan()
	require.NoError(t, err)
	_, err = l.Apply(ctx, plan)
	require.NoError(t, err)
	lsp, _ := plan.LSP("pe2")
	p1, _ := lsp.Hop("p1")
	p2, _ := lsp.Hop("p2")
	in := func(node, format string, args ...any) {
		t.Helper()
		var said strings.Builder
		cmd := exec.Command("ip", strings.Fields(fmt.Sprintf(format, args...))...)
		cmd.Stdout, cmd.Stderr = &said, &said
		require.NoError(t, l.Fabric().Start(node, cmd))
		require.NoError(t, cmd.Wait(), "%s", &said)
	}
	in("p2", "-f mpls route add 777 via inet %v dev %s", p2.Via, p2.Dev)
	in("p1", "-f mpls route replace %d as 777 via inet %v dev %s", p1.InLabel, p1.Via, p1.Dev)
	r := &run{lab: l}
	out, err := r.truth(ctx, red, pairsOf(plan, red, "red-a-1"))
	require.NoError(t, err)
	t.Log(out.Measured, out.Note)
	require.Equal(t, metrics.FidelityVoid, out.Grade)
	require.Contains(t, out.Note, "777")
	require.Equal(t, 2.0*perPair, out.Error/2, "both ends of one link, each missing and in its place another")
}
