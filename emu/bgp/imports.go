package bgp

import (
	"net/netip"
	"slices"
	"strings"
)

// path is one VPNv4 best path as GoBGP reports it.
type path struct {
	RD      string
	Prefix  netip.Prefix
	Label   uint32
	NextHop netip.Addr
	RTs     []string
}

// rib holds the received paths by prefix and RD: the same prefix of two
// tenants, or of two sites, differs in its RD (RFC 4364 section 4.1).
type rib map[netip.Prefix]map[string]path

// put adds or replaces a path.
func (r rib) put(p path) {
	byRD := r[p.Prefix]
	if byRD == nil {
		byRD = map[string]path{}
		r[p.Prefix] = byRD
	}
	byRD[p.RD] = p
}

// drop removes a path and says whether it was there.
func (r rib) drop(rd string, prefix netip.Prefix) bool {
	byRD := r[prefix]
	if _, ok := byRD[rd]; !ok {
		return false
	}
	delete(byRD, rd)
	if len(byRD) == 0 {
		delete(r, prefix)
	}
	return true
}

// vrfRoute is one learned route of a VRF table: the VPN label of the egress
// PE below the LSP's label. It is comparable: a changed one is replaced.
type vrfRoute struct {
	VRF    string
	Table  int
	Prefix netip.Prefix
	Egress netip.Addr // BGP next hop
	Label  uint32     // VPN label
	LSP    uint32     // 0: the egress is the neighbour
	Via    netip.Addr
	Dev    string
}

// routeKey is the place of a route in the kernel.
type routeKey struct {
	Table  int
	Prefix netip.Prefix
}

func (r vrfRoute) key() routeKey { return routeKey{r.Table, r.Prefix} }

// importer decides what the VRFs and VSIs of one configuration hold.
type importer struct {
	self       netip.Addr
	vrfs       []VRF
	imports    []map[string]bool // of vrfs[i]
	vsis       []VSI
	vsiImports []map[string]bool
	tunnels    map[netip.Addr]Tunnel
}

func newImporter(c *Config) *importer {
	im := &importer{self: c.RouterID, vrfs: c.VRFs, vsis: c.VSIs, tunnels: make(map[netip.Addr]Tunnel, len(c.Tunnels))}
	for i := range c.VRFs {
		im.imports = append(im.imports, c.VRFs[i].importRTs())
	}
	for i := range c.VSIs {
		im.vsiImports = append(im.vsiImports, c.VSIs[i].importRTs())
	}
	for _, t := range c.Tunnels {
		im.tunnels[t.Egress] = t
	}
	return im
}

// want adds to out the route of prefix in each VRF that should have one.
//
// A path is eligible where one of its route targets is imported and its next
// hop has a tunnel. A site attached here wins over a learned route. Among
// several paths the lowest next hop wins, which is the lowest BGP identifier:
// the attributes before it in RFC 4271 section 9.1.2.2 are equal for routes
// of one AS that differ in their RD only, and unlike "the oldest" it does not
// depend on the order of arrival.
func (im *importer) want(r rib, prefix netip.Prefix, out map[routeKey]vrfRoute) {
	paths := r[prefix]
	if len(paths) == 0 {
		return
	}
	for i := range im.vrfs {
		v := &im.vrfs[i]
		if v.local(prefix) {
			continue
		}
		best, ok := im.best(paths, im.imports[i])
		if !ok {
			continue
		}
		t := im.tunnels[best.NextHop]
		route := vrfRoute{VRF: v.Name, Table: v.Table, Prefix: prefix, Egress: best.NextHop,
			Label: best.Label, LSP: t.Label, Via: t.Via, Dev: t.Dev}
		out[route.key()] = route
	}
}

func (im *importer) best(paths map[string]path, imports map[string]bool) (best path, ok bool) {
	for _, p := range paths {
		if p.NextHop == im.self || p.Label < minLabel || !imported(p.RTs, imports) {
			continue
		}
		if _, resolved := im.tunnels[p.NextHop]; !resolved {
			continue
		}
		if !ok || p.before(best) {
			best, ok = p, true
		}
	}
	return best, ok
}

// before orders paths of one prefix.
func (p path) before(q path) bool {
	if c := p.NextHop.Compare(q.NextHop); c != 0 {
		return c < 0
	}
	return strings.Compare(p.RD, q.RD) < 0
}

// diffRoutes compares what is in the kernel with what should be, for the
// prefixes in scope (nil: all), and returns both lists in table order.
func diffRoutes(have, want map[routeKey]vrfRoute, scope map[netip.Prefix]bool) (set, del []vrfRoute) {
	for k, h := range have {
		if scope != nil && !scope[k.Prefix] {
			continue
		}
		if _, ok := want[k]; !ok {
			del = append(del, h)
		}
	}
	for k, w := range want {
		if have[k] != w {
			set = append(set, w)
		}
	}
	slices.SortFunc(set, compareRoutes)
	slices.SortFunc(del, compareRoutes)
	return set, del
}

func compareRoutes(a, b vrfRoute) int {
	if a.Table != b.Table {
		return a.Table - b.Table
	}
	if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
		return c
	}
	return a.Prefix.Bits() - b.Prefix.Bits()
}

// export is one route that this PE originates.
type export struct {
	VRF, Site string
	RD        string
	Prefix    netip.Prefix
	Label     uint32
	RT        string
}

type exportKey struct {
	RD     string
	Prefix netip.Prefix
}

func (e export) key() exportKey { return exportKey{e.RD, e.Prefix} }

// exports lists what c originates.
func (c *Config) exports() map[exportKey]export {
	m := map[exportKey]export{}
	for _, v := range c.VRFs {
		for _, k := range v.Circuits {
			e := export{VRF: v.Name, Site: k.Site, RD: v.RD, Prefix: k.Prefix, Label: v.Label, RT: k.ExportRT}
			m[e.key()] = e
		}
	}
	return m
}

func compareExports(a, b export) int {
	if c := strings.Compare(a.RD, b.RD); c != 0 {
		return c
	}
	if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
		return c
	}
	return a.Prefix.Bits() - b.Prefix.Bits()
}
