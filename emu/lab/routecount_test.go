package lab

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"github.com/vpclab/vpclab/emu/event"
)

// What the table counts as it goes is what a comparison of everything finds,
// whatever comes in which order.
func TestRoutesAreCountedAsTheyCome(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 1))
	tab := newRouteTable()
	want := map[routeKey]netip.Addr{portTo("vsi-x", "2"): {}}
	one, two := netip.MustParseAddr("10.255.0.1"), netip.MustParseAddr("10.255.0.2")
	for i := range 40 {
		want[routeKey{"pe1", "vrf-x", netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, byte(i)}), 32)}] = []netip.Addr{one, two}[i%2]
	}
	tab.unsure = func(k routeKey, egress netip.Addr) bool {
		return k.Prefix.IsValid() && k.Prefix.Addr().As4()[3]%5 == 0 && egress == one
	}
	tab.aim(want)
	for step := range 3000 {
		pe := []string{"pe1", "pe2"}[r.IntN(2)]
		attr := map[string]string{"vrf": "vrf-x", "prefix": "100.64.0." + strconv.Itoa(r.IntN(50)) + "/32", "egress": []netip.Addr{one, two}[r.IntN(2)].String()}
		if r.IntN(3) == 0 {
			attr["count"] = strconv.Itoa(1 + r.IntN(20))
		}
		switch r.IntN(12) {
		case 0, 1, 2, 3, 4:
			tab.observe(event.New(pe, "route.programmed", attr))
		case 5, 6, 7:
			tab.observe(event.New(pe, "route.removed", attr))
		case 8:
			tab.observe(event.New(pe, "port.opened", map[string]string{"vsi": "vsi-x", "site": "2"}))
		case 9:
			tab.observe(event.New(pe, "port.closed", map[string]string{"vsi": "vsi-x", "site": "2"}))
		case 10:
			tab.forget(pe)
		case 11:
			if r.IntN(50) == 0 {
				tab.reset()
			}
		}
		missing, extra := tab.open()
		lacks, left := tab.diff(want)
		if missing != len(lacks) || extra != len(left) {
			t.Fatalf("after %d events: %d missing and %d left over are counted, %d and %d are", step+1, missing, extra, len(lacks), len(left))
		}
	}
}
