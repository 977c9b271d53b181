package lab

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExpectedRoutesToASiteWithTwoPEs(t *testing.T) {
	plan := planOf(t, `
name: homed
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    links: [{between: [pe1, pe2]}, {between: [pe2, pe3]}, {between: [pe1, pe3]}]
  sites:
    hq: {kind: enterprise, pe: pe2, backup-pe: pe1}
    branch: {kind: enterprise, pe: pe3}
    next: {kind: enterprise, pe: pe1}
vpcs:
  acme: {service: l3vpn, sites: [hq, branch, next]}
`)
	hq, vrf := netip.MustParsePrefix("10.1.1.0/24"), "vrf-acme"
	loopback := func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 255, 0, i}) }
	want := expectedRoutes(plan)
	require.Equal(t, loopback(2), want[routeKey{"pe3", vrf, hq}], "the first PE is preferred")
	require.NotContains(t, want, routeKey{"pe1", vrf, hq}, "it is attached there too")
	require.NotContains(t, want, routeKey{"pe2", vrf, hq})
	require.Equal(t, loopback(1), want[routeKey{"pe2", vrf, netip.MustParsePrefix("10.1.3.0/24")}])
	require.Len(t, want, 5)

	var lost []string
	for _, l := range plan.LinksOf("pe2") {
		if l.Core {
			lost = append(lost, l.Name())
		}
	}
	without := expectedRoutes(plan.Without(lost...))
	require.Equal(t, loopback(1), without[routeKey{"pe3", vrf, hq}], "no way leads to the first")
}
