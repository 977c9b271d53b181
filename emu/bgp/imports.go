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
	Pref    int // LOCAL_PREF: the higher the better
}

// defaultPref is the LOCAL_PREF of a path that comes without one: RFC 4271
// leaves the number to each, and the field has agreed.
const defaultPref = 100

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

// vrfRoute is one learned route of a VRF table. It is comparable: a changed one
// is replaced.
type vrfRoute struct {
	VRF    string
	Table  int
	Prefix netip.Prefix
	Metric int // 0; spareMetric: of the one that stands behind it
	Way    way // where Nexthop is not 0, its Egress alone
	// Nexthop is the shared next hop that says the way; 0: none.
	Nexthop uint32
}

// routeKey is the place of a route in the kernel.
type routeKey struct {
	Table  int
	Prefix netip.Prefix
	Metric int
}

func (r vrfRoute) key() routeKey { return routeKey{r.Table, r.Prefix, r.Metric} }

// importer decides what the VRFs and VSIs of one configuration hold.
type importer struct {
	self       netip.Addr
	vrfs       []VRF
	imports    []map[string]bool       // of vrfs[i]
	attached   []map[netip.Prefix]bool // to vrfs[i], runs apart
	vsis       []VSI
	vsiImports []map[string]bool
	tunnels    map[netip.Addr]Tunnel
}

func newImporter(c *Config) *importer {
	im := &importer{self: c.RouterID, vrfs: c.VRFs, vsis: c.VSIs, tunnels: make(map[netip.Addr]Tunnel, len(c.Tunnels))}
	for i := range c.VRFs {
		im.imports = append(im.imports, c.VRFs[i].importRTs())
		attached := map[netip.Prefix]bool{}
		for _, k := range c.VRFs[i].Circuits {
			attached[k.Prefix] = true
		}
		im.attached = append(im.attached, attached)
	}
	for i := range c.VSIs {
		im.vsiImports = append(im.vsiImports, c.VSIs[i].importRTs())
	}
	for _, t := range c.Tunnels {
		im.tunnels[t.Egress] = t
	}
	return im
}

// tables are those of the VRFs.
func (im *importer) tables() []int {
	out := make([]int, len(im.vrfs))
	for i := range im.vrfs {
		out[i] = im.vrfs[i].Table
	}
	return out
}

// local says that prefix is a site's that is attached to VRF i here.
func (im *importer) local(i int, prefix netip.Prefix) bool {
	return im.attached[i][prefix] ||
		slices.ContainsFunc(im.vrfs[i].Circuits, func(c Circuit) bool { return c.More.Has(prefix) })
}

// each calls with the best and the second path of prefix in each VRF that has
// one; no second has a next hop that is the best's.
//
// A path is eligible where one of its route targets is imported and its next
// hop has a tunnel. A site attached here wins over a learned route. Among
// several paths the highest LOCAL_PREF wins, then the lowest next hop, which is
// the lowest BGP identifier: the attributes between them in RFC 4271 section
// 9.1.2.2 are equal for routes of one AS that differ in their RD only, and
// unlike "the oldest" it does not depend on the order of arrival.
//
// Who is down, as found out without BGP, comes after all others; where there is
// nobody else BGP decides.
func (im *importer) each(r rib, prefix netip.Prefix, down map[netip.Addr]bool, each func(v *VRF, best, second path)) {
	paths := r[prefix]
	if len(paths) == 0 {
		return
	}
	for i := range im.vrfs {
		if im.local(i, prefix) {
			continue
		}
		best := im.best(paths, im.imports[i], down, netip.Addr{})
		if !best.NextHop.IsValid() {
			continue
		}
		each(&im.vrfs[i], best, im.best(paths, im.imports[i], down, best.NextHop))
	}
}

// want adds to out the route of prefix in each VRF that should have one, as it
// is where each has its own way.
func (im *importer) want(r rib, prefix netip.Prefix, up *reach, out map[routeKey]vrfRoute) {
	im.each(r, prefix, up.peers, func(v *VRF, best, _ path) {
		route := vrfRoute{VRF: v.Name, Table: v.Table, Prefix: prefix, Way: im.way(best.target(), up)}
		out[route.key()] = route
	})
}

// best is the best of paths that does not go to other; the zero path: none.
func (im *importer) best(paths map[string]path, imports map[string]bool, down map[netip.Addr]bool, other netip.Addr) (best path) {
	for _, p := range paths {
		if p.NextHop == im.self || p.NextHop == other || p.Label < minLabel || !imported(p.RTs, imports) {
			continue
		}
		if _, resolved := im.tunnels[p.NextHop]; !resolved {
			continue
		}
		if !best.NextHop.IsValid() || p.before(best, down) {
			best = p
		}
	}
	return best
}

// before orders paths of one prefix.
func (p path) before(q path, down map[netip.Addr]bool) bool {
	if down[p.NextHop] != down[q.NextHop] {
		return down[q.NextHop]
	}
	if p.Pref != q.Pref {
		return p.Pref > q.Pref
	}
	if c := p.NextHop.Compare(q.NextHop); c != 0 {
		return c < 0
	}
	return strings.Compare(p.RD, q.RD) < 0
}

// diffRoutes compares what is in the kernel with what should be, for the
// prefixes in scope in tables (nil: all), and returns both lists in table
// order.
func diffRoutes(have, want map[routeKey]vrfRoute, scope map[netip.Prefix]bool, tables []int) (set, del []vrfRoute) {
	gone := func(k routeKey) {
		if h, there := have[k]; there {
			if _, ok := want[k]; !ok {
				del = append(del, h)
			}
		}
	}
	if scope == nil {
		for k := range have {
			gone(k)
		}
	}
	for prefix := range scope { // not all that is there: thousands may come some at a time
		for _, table := range tables {
			gone(routeKey{table, prefix, 0})
			gone(routeKey{table, prefix, spareMetric})
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
	if a.Metric != b.Metric {
		return a.Metric - b.Metric
	}
	return comparePrefixes(a.Prefix, b.Prefix)
}

// comparePrefixes has a network before those that are within it.
func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// export is one route that this PE originates.
type export struct {
	VRF, Site string
	RD        string
	Prefix    netip.Prefix
	Label     uint32
	RT        string
	Pref      int // LOCAL_PREF; 0: none is said
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
			e := export{VRF: v.Name, Site: k.Site, RD: v.RD, Prefix: k.Prefix, Label: v.Label, RT: k.ExportRT, Pref: k.Preference}
			m[e.key()] = e
			for p := range k.More.All() {
				e.Prefix = p
				m[e.key()] = e
			}
		}
	}
	return m
}

func compareExports(a, b export) int {
	if c := strings.Compare(a.RD, b.RD); c != 0 {
		return c
	}
	return comparePrefixes(a.Prefix, b.Prefix)
}
