package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// vpnv4 is the one address family of the lab's sessions.
var vpnv4 = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_MPLS_VPN}

// apiPath is e as GoBGP wants it, with the loopback as next hop.
func (e export) apiPath(nextHop netip.Addr) (*api.Path, error) {
	rd, err := bgp.ParseRouteDistinguisher(e.RD)
	if err != nil {
		return nil, err
	}
	rt, err := bgp.ParseRouteTarget(e.RT)
	if err != nil {
		return nil, err
	}
	nlri := bgp.NewLabeledVPNIPAddrPrefix(uint8(e.Prefix.Bits()), e.Prefix.Addr().String(),
		bgp.MPLSLabelStack{Labels: []uint32{e.Label}}, rd)
	attrs := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP),
		bgp.NewPathAttributeExtendedCommunities([]bgp.ExtendedCommunityInterface{rt}),
		bgp.NewPathAttributeMpReachNLRI(nextHop.String(), []bgp.AddrPrefixInterface{nlri}),
	}
	return apiutil.NewPath(nlri, false, attrs, time.Now())
}

// parsePath reads what the import logic needs from a path of a watch or a
// listing. Of a withdrawal only RD and prefix count.
func parsePath(p *api.Path) (path, error) {
	native, err := apiutil.GetNativeNlri(p)
	if err != nil {
		return path{}, fmt.Errorf("read NLRI: %w", err)
	}
	nlri, ok := native.(*bgp.LabeledVPNIPAddrPrefix)
	if !ok {
		return path{}, fmt.Errorf("read NLRI %s: not VPNv4", native)
	}
	addr, ok := netip.AddrFromSlice(nlri.Prefix.To4())
	if !ok {
		return path{}, fmt.Errorf("read NLRI %s: no IPv4 prefix", native)
	}
	out := path{RD: nlri.RD.String(), Prefix: netip.PrefixFrom(addr, int(nlri.IPPrefixLen())).Masked()}
	if !out.Prefix.IsValid() {
		return path{}, fmt.Errorf("read NLRI %s: bad prefix length", native)
	}
	if p.IsWithdraw {
		return out, nil
	}
	if len(nlri.Labels.Labels) > 0 {
		out.Label = nlri.Labels.Labels[0]
	}
	attrs, err := apiutil.GetNativePathAttributes(p)
	if err != nil {
		return path{}, fmt.Errorf("read attributes of %s: %w", native, err)
	}
	for _, a := range attrs {
		switch a := a.(type) {
		case *bgp.PathAttributeMpReachNLRI:
			out.NextHop, _ = netip.AddrFromSlice(a.Nexthop)
			out.NextHop = out.NextHop.Unmap()
		case *bgp.PathAttributeExtendedCommunities:
			for _, c := range a.Value {
				if _, sub := c.GetTypes(); sub == bgp.EC_SUBTYPE_ROUTE_TARGET {
					out.RTs = append(out.RTs, c.String())
				}
			}
		}
	}
	return out, nil
}

// routeInfo is a listed path for the parent.
func routeInfo(p *api.Path) (RouteInfo, error) {
	q, err := parsePath(p)
	if err != nil {
		return RouteInfo{}, err
	}
	from, _ := netip.ParseAddr(p.NeighborIp) // "<nil>" of a local path: the zero Addr
	return RouteInfo{RD: q.RD, Prefix: q.Prefix, Label: q.Label, NextHop: q.NextHop, RTs: q.RTs, From: from, Best: p.Best}, nil
}

func sortRouteInfos(rs []RouteInfo) {
	slices.SortFunc(rs, func(a, b RouteInfo) int {
		return compareExports(export{RD: a.RD, Prefix: a.Prefix}, export{RD: b.RD, Prefix: b.Prefix})
	})
}
