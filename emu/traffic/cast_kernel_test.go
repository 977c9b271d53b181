package traffic

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

func castOn(t *testing.T, e *Ether, cfg CastConfig) []CastResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if cfg.Due == nil {
		cfg.Due = func(c Cast, port int) bool { return cfg.Ports[c.From].VPC == cfg.Ports[port].VPC }
	}
	results, err := e.Cast(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func wantArrived(t *testing.T, r CastResult, want ...int) {
	t.Helper()
	if !slices.Equal(r.Arrived, want) {
		t.Errorf("%v of port %d arrived %v; want %v", r.Kind, r.From, r.Arrived, want)
	}
}

// withIPv6 gives machines their link-local addresses at once.
func withIPv6(t *testing.T, eps []Endpoint) {
	t.Helper()
	for _, ep := range eps {
		if err := enter(ep.Name, func() error {
			conf := "/proc/sys/net/ipv6/conf/eth0/"
			return errors.Join(os.WriteFile(conf+"accept_dad", []byte("0"), 0), os.WriteFile(conf+"disable_ipv6", []byte("1"), 0), os.WriteFile(conf+"disable_ipv6", []byte("0"), 0))
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCastsAreHeardInTheirLANAndAnsweredByTheOwner(t *testing.T) {
	kerneltest.Need(t)
	a := lan(t, "a", 3)
	withIPv6(t, a)
	e, ports := etherOn(t, append(a, lan(t, "b", 1)...))
	results := castOn(t, e, CastConfig{Ports: ports, Casts: []Cast{
		{Kind: CastFrame, From: 0}, {Kind: CastGroup, From: 1}, {Kind: CastARP, From: 0, Owner: 2}, {Kind: CastND, From: 1, Owner: 2},
	}})
	wantArrived(t, results[0], 0, 1, 1, 0)
	wantArrived(t, results[1], 1, 0, 1, 0)
	wantArrived(t, results[2], 0, 1, 1, 0)
	wantArrived(t, results[3], 1, 0, 1, 0)
	for _, r := range results[2:] {
		if !r.AnsweredBy(ports[2].MAC) {
			t.Errorf("%v was answered by %v; want %v", r.Kind, r.Answers, ports[2].MAC)
		}
	}
}

func TestCastsFindCopiesAndSilence(t *testing.T) {
	kerneltest.Need(t)
	a := lan(t, "a", 3)
	if err := enter("sw-a", func() error { return mirror(t, "p2", "p1") }); err != nil { // a second way from a-2 to a-1
		t.Fatal(err)
	}
	in(t, "a-3", "addr flush dev eth0")
	e, ports := etherOn(t, a)
	results := castOn(t, e, CastConfig{Ports: ports, Deadline: 200 * time.Millisecond, Casts: []Cast{{Kind: CastFrame, From: 1}, {Kind: CastARP, From: 0, Owner: 2}}})
	wantArrived(t, results[0], 2, 0, 1)
	wantArrived(t, results[1], 0, 1, 1)
	if len(results[1].Answers) != 0 {
		t.Errorf("%v answered for an address that nobody has", results[1].Answers)
	}
}

func TestUnicastIsOverheardUntilItsMACIsLearned(t *testing.T) {
	kerneltest.Need(t)
	e, ports := etherOn(t, lan(t, "a", 3))
	behind := topo.MAC{2, 0xee, 0, 0, 0, 1} // a station behind port 2
	only := func(port int) func(Cast, int) bool { return func(_ Cast, p int) bool { return p == port } }
	ask := []Cast{{Kind: CastFrame, From: 0, To: behind}}
	wantArrived(t, castOn(t, e, CastConfig{Ports: ports, Casts: ask, Due: only(2)})[0], 0, 1, 1)
	wantArrived(t, castOn(t, e, CastConfig{Ports: ports, Casts: []Cast{{Kind: CastFrame, From: 2, Source: behind}}})[0], 1, 1, 0)
	wantArrived(t, castOn(t, e, CastConfig{Ports: ports, Casts: ask, Due: only(2)})[0], 0, 0, 1)
}

func TestSizesSayWhatCrossesAndWhatIsRefused(t *testing.T) {
	kerneltest.Need(t)
	p := open(t, lan(t, "a", 2)...)
	// A bridge drops what is too large for a port and says nothing; it leaves
	// room for a VLAN tag.
	in(t, "sw-a", "link set p2 mtu 1396")
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	results, err := p.Sizes(ctx, Flow{"a-1", "a-2"}, []int{64, 1400, 1401, 1500, 1501, 9000}, false)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, r := range results {
		switch {
		case r.Arrived:
			got += "a"
		case r.TooLarge():
			got += "t"
		case r.Silent():
			got += "s"
		}
	}
	if got != "aasstt" || Largest(results) != 1400 {
		t.Errorf("%s, largest %d; want aasstt, 1400: %+v", got, Largest(results), results)
	}
	in(t, "sw-a", "link set p2 mtu 1500")
	if results, err = p.Sizes(ctx, Flow{"a-1", "a-2"}, []int{1500, 4000}, true); err != nil || Largest(results) != 4000 {
		t.Errorf("fragments: %+v, %v", results, err)
	}
}
