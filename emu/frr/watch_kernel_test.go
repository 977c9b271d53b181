package frr

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// ip runs lines of `ip -batch`.
func ip(t *testing.T, lines ...string) {
	t.Helper()
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip -batch: %v\n%s", err, out)
	}
}

func TestWatch(t *testing.T) {
	kerneltest.Need(t)
	ip(t, "link add red type vrf table 1001", "link set red up", "link add core type dummy", "addr add 10.9.0.1/24 dev core", "link set core up",
		"route add 10.9.9.0/24 table 1001 proto bgp encap mpls 17/20101 via 10.9.0.2 dev core") // before the watch: of a predecessor
	defer ip(t, "link del core", "link del red")
	if err := sweep(); err != nil {
		t.Fatal(err)
	}
	if left, err := read(); err != nil || len(left) > 0 {
		t.Fatalf("after the sweep: %v, %v", left, err)
	}

	events := make(chan event.Event, 64)
	w, err := startWatch("pe1", func(e event.Event) { events <- e }, func(_ context.Context, vrf string) (map[netip.Prefix]netip.Addr, error) {
		return map[netip.Prefix]netip.Addr{netip.MustParsePrefix("10.0.2.0/24"): netip.MustParseAddr("10.255.0.2")}, nil
	}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	w.setTables([]bgp.VRF{{Name: "red", Table: 1001}})
	want := func(kind, prefix, labels, egress string) {
		t.Helper()
		select {
		case e := <-events:
			got := fmt.Sprintf("%s %s %s %s %s %s", e.Kind, e.Node, e.Attr["vrf"], e.Attr["prefix"], e.Attr["labels"], e.Attr["egress"])
			if want := fmt.Sprintf("%s pe1 red %s %s %s", kind, prefix, labels, egress); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("waited 10 s for %s of %s", kind, prefix)
		}
	}
	ip(t, "route add 10.0.3.0/24 table 1001 proto bgp via 10.9.0.2 dev core", // no label: not a VPN's
		"route add 10.0.4.0/24 table 1002 proto bgp encap mpls 17/20101 via 10.9.0.2 dev core",    // no VRF of ours
		"route add 10.0.5.0/24 table 1001 proto static encap mpls 17/20101 via 10.9.0.2 dev core", // not BGP's
		"route add 10.0.2.0/24 table 1001 proto bgp encap mpls 17/20102 via 10.9.0.2 dev core")
	want("route.programmed", "10.0.2.0/24", "17/20102", "10.255.0.2")
	ip(t, "route replace 10.0.2.0/24 table 1001 proto bgp encap mpls 17/20102 via 10.9.0.2 dev core", // the same again
		"route replace 10.0.2.0/24 table 1001 proto bgp encap mpls 18/20102 via 10.9.0.2 dev core")
	want("route.programmed", "10.0.2.0/24", "18/20102", "10.255.0.2")
	ip(t, "route del 10.0.2.0/24 table 1001")
	want("route.removed", "10.0.2.0/24", "", "")

	// The kernel says nothing of the routes that go with their link.
	ip(t, "route add 10.0.2.0/24 table 1001 proto bgp encap mpls 20102 via 10.9.0.2 dev core")
	want("route.programmed", "10.0.2.0/24", "20102", "10.255.0.2")
	ip(t, "link set core down")
	want("route.removed", "10.0.2.0/24", "", "")
	select {
	case e := <-events:
		t.Errorf("one event too many: %+v", e)
	default:
	}
}
