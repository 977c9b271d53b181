package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// The address families of the lab's sessions. A neighbor that speaks only one
// of them gets only that one (RFC 4760 section 8).
var (
	vpnv4 = &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_MPLS_VPN}
	vpls  = &api.Family{Afi: api.Family_AFI_L2VPN, Safi: api.Family_SAFI_VPLS}
)

// origin is something that this PE originates; the loopback is its next hop.
type origin interface {
	apiPath(nextHop netip.Addr) (*api.Path, error)
	String() string // for errors
}

func (e export) String() string { return fmt.Sprintf("%s of vrf %s", e.Prefix, e.VRF) }

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
	return newPath(nlri, nextHop, e.Pref, []bgp.ExtendedCommunityInterface{rt})
}

func (e vplsExport) String() string {
	if e.Size == 0 {
		return fmt.Sprintf("site %d of vsi %s", e.VEID, e.VSI)
	}
	return fmt.Sprintf("%s of vsi %s", e.labelBlock, e.VSI)
}

func (e vplsExport) apiPath(nextHop netip.Addr) (*api.Path, error) {
	rd, err := bgp.ParseRouteDistinguisher(e.RD)
	if err != nil {
		return nil, err
	}
	var communities []bgp.ExtendedCommunityInterface
	for rt := range strings.FieldsSeq(e.RTs) {
		c, err := bgp.ParseRouteTarget(rt)
		if err != nil {
			return nil, err
		}
		communities = append(communities, c)
	}
	flags := uint8(0)
	if e.Forwards {
		flags = flagForwards
	}
	communities = append(communities, bgp.NewVPLSExtended(flags, uint16(e.MTU)))
	nlri := bgp.NewVPLSNLRI(rd, uint16(e.VEID), uint16(e.Offset), uint16(e.Size), e.Base)
	return newPath(nlri, nextHop, e.Pref, communities)
}

// newPath has the LOCAL_PREF pref; 0: GoBGP's, which is defaultPref.
func newPath(nlri bgp.AddrPrefixInterface, nextHop netip.Addr, pref int, communities []bgp.ExtendedCommunityInterface) (*api.Path, error) {
	attrs := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP),
		bgp.NewPathAttributeExtendedCommunities(communities),
		bgp.NewPathAttributeMpReachNLRI(nextHop.String(), []bgp.AddrPrefixInterface{nlri}),
	}
	if pref != 0 {
		attrs = append(attrs, bgp.NewPathAttributeLocalPref(uint32(pref)))
	}
	return apiutil.NewPath(nlri, false, attrs, time.Now())
}

// parsePath reads what the import logic needs from a path of a watch or a
// listing: it returns a path or a vplsPath. Of a withdrawal only the NLRI
// counts.
func parsePath(p *api.Path) (any, error) {
	native, err := apiutil.GetNativeNlri(p)
	if err != nil {
		return nil, fmt.Errorf("read NLRI: %w", err)
	}
	var a attributes
	if !p.IsWithdraw {
		if a, err = parseAttributes(p); err != nil {
			return nil, fmt.Errorf("read attributes of %s: %w", native, err)
		}
	}
	switch nlri := native.(type) {
	case *bgp.LabeledVPNIPAddrPrefix:
		return vpnPath(nlri, a)
	case *bgp.VPLSNLRI:
		n := vplsNLRI{nlri.RD().String(), int(nlri.VEID), labelBlock{int(nlri.VEBlockOffset), int(nlri.VEBlockSize), nlri.LabelBlockBase}}
		return vplsPath{n, a.nextHop, a.rts, a.layer2, a.pref}, nil
	}
	return nil, fmt.Errorf("read NLRI %s: neither VPNv4 nor VPLS", native)
}

func vpnPath(nlri *bgp.LabeledVPNIPAddrPrefix, a attributes) (path, error) {
	addr, ok := netip.AddrFromSlice(nlri.Prefix.To4())
	if !ok {
		return path{}, fmt.Errorf("read NLRI %s: no IPv4 prefix", nlri)
	}
	out := path{RD: nlri.RD.String(), Prefix: netip.PrefixFrom(addr, int(nlri.IPPrefixLen())).Masked(), NextHop: a.nextHop, RTs: a.rts, Pref: a.pref}
	if !out.Prefix.IsValid() {
		return path{}, fmt.Errorf("read NLRI %s: bad prefix length", nlri)
	}
	if len(nlri.Labels.Labels) > 0 {
		out.Label = nlri.Labels.Labels[0]
	}
	return out, nil
}

// attributes are those that matter here.
type attributes struct {
	nextHop netip.Addr
	rts     []string
	layer2  layer2
	pref    int
}

func parseAttributes(p *api.Path) (out attributes, err error) {
	attrs, err := apiutil.GetNativePathAttributes(p)
	if err != nil {
		return out, err
	}
	out.pref = defaultPref
	for _, a := range attrs {
		switch a := a.(type) {
		case *bgp.PathAttributeMpReachNLRI:
			out.nextHop, _ = netip.AddrFromSlice(a.Nexthop)
			out.nextHop = out.nextHop.Unmap()
		case *bgp.PathAttributeLocalPref:
			out.pref = int(a.Value)
		case *bgp.PathAttributeExtendedCommunities:
			for _, c := range a.Value {
				out.community(c)
			}
		}
	}
	return out, nil
}

func (a *attributes) community(c bgp.ExtendedCommunityInterface) {
	switch c := c.(type) {
	case *bgp.VPLSExtended:
		a.layer2 = layer2{encapsVPLS, c.ControlFlags, int(c.MTU)}
		return
	case *bgp.UnknownExtended: // also Layer2 Info of an encapsulation that GoBGP does not know
		if c.Type == bgp.EC_TYPE_GENERIC_TRANSITIVE_EXPERIMENTAL && len(c.Value) == 7 && c.Value[0] == byte(bgp.EC_SUBTYPE_L2_INFO) {
			a.layer2 = layer2{c.Value[1], c.Value[2], int(c.Value[3])<<8 | int(c.Value[4])}
		}
		return
	}
	if _, sub := c.GetTypes(); sub == bgp.EC_SUBTYPE_ROUTE_TARGET {
		a.rts = append(a.rts, c.String())
	}
}

// routeInfo is a listed path for the parent.
func routeInfo(p *api.Path) (RouteInfo, error) {
	got, err := parsePath(p)
	if err != nil {
		return RouteInfo{}, err
	}
	from, _ := netip.ParseAddr(p.NeighborIp) // "<nil>" of a local path: the zero Addr
	out := RouteInfo{From: from, Best: p.Best}
	switch q := got.(type) {
	case path:
		out.RD, out.Prefix, out.Label, out.NextHop, out.RTs = q.RD, q.Prefix, q.Label, q.NextHop, q.RTs
	case vplsPath:
		out.RD, out.NextHop, out.RTs = q.RD, q.NextHop, q.RTs
		out.VPLS = &VPLSInfo{VEID: q.VEID, BlockOffset: q.Offset, BlockSize: q.Size, LabelBase: q.Base, MTU: q.Layer2.MTU}
	}
	return out, nil
}

// sortRouteInfos puts prefixes before label blocks, each in order.
func sortRouteInfos(rs []RouteInfo) {
	slices.SortFunc(rs, func(a, b RouteInfo) int {
		switch {
		case a.VPLS == nil && b.VPLS == nil:
			return compareExports(export{RD: a.RD, Prefix: a.Prefix}, export{RD: b.RD, Prefix: b.Prefix})
		case a.VPLS == nil:
			return -1
		case b.VPLS == nil:
			return 1
		}
		return cmp.Or(strings.Compare(a.RD, b.RD), cmp.Compare(a.VPLS.VEID, b.VPLS.VEID), cmp.Compare(a.VPLS.LabelBase, b.VPLS.LabelBase))
	})
}
