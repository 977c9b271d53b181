package topo

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// settle gives the reservations their ways: those that have one which still
// carries keep it, the others take, in order and the newest last, the cheapest
// with room. fresh lets all of them begin anew. What cannot be met is in the
// answer, by name.
func (p *Plan) settle(fresh bool, newest string) map[string]*refusal {
	defer p.protect() // the bypasses have adjacencies too
	if len(p.Reservations) == 0 {
		p.Adjacencies = nil
		return nil
	}
	p.Reservations = slices.Clone(p.Reservations)
	s := newSettling(p)
	ways := make([][]string, len(p.Reservations))
	for i, r := range p.Reservations {
		if fresh || r.Unmet != "" {
			continue
		}
		if way := s.kept(r); way != nil {
			ways[i] = way
			s.charge(r, way)
		}
	}
	unmet := map[string]*refusal{}
	place := func(i int) {
		r := &p.Reservations[i]
		way, err := s.place(*r)
		if err != nil {
			unmet[r.Name] = err
			r.Unmet, r.Directions = err.Error(), nil
			return
		}
		r.Unmet, ways[i] = "", way
		s.charge(*r, way)
	}
	last := -1
	for i, r := range p.Reservations {
		if r.Name == newest {
			last = i
		} else if ways[i] == nil {
			place(i)
		}
	}
	if last >= 0 {
		place(last)
	}
	p.Adjacencies = nil
	for i := range p.Reservations {
		if r := &p.Reservations[i]; r.Unmet == "" {
			r.Directions = s.directions(*r, ways[i])
		}
	}
	s.core.sortAdjacencies(p.Adjacencies)
	p.raiseTopLabel()
	return unmet
}

// settling is the state of one settle.
type settling struct {
	plan  *Plan
	core  *core
	lines map[[2]string]*line // by sending end: node, interface
	lsps  bool                // the LSPs of the plan are in the kernels
}

// line is one direction of a link. A line without a rate is never full.
type line struct {
	from, to string
	rate     Rate
	taken    Rate
	by       []string
}

func newSettling(p *Plan) *settling {
	s := &settling{plan: p, core: p.core(), lines: map[[2]string]*line{}, lsps: !p.AllFRR()}
	for _, l := range p.Links {
		if l.Core || l.AC {
			s.lines[[2]string{l.A.Node, l.A.Ifname}] = &line{from: l.A.Node, to: l.B.Node, rate: l.AtoB.Rate}
			s.lines[[2]string{l.B.Node, l.B.Ifname}] = &line{from: l.B.Node, to: l.A.Node, rate: l.BtoA.Rate}
		}
	}
	return s
}

// unlimited is more than any line has.
const unlimited = Rate(1) << 62

func (l *line) room() Rate {
	if l.rate == 0 {
		return unlimited
	}
	return reservable(l.rate) - l.taken
}

func (l *line) full(r ReservationPlan) *NoRoomError {
	return &NoRoomError{r.Name, r.Rate, l.from + "--" + l.to, l.rate, l.taken, slices.Clone(l.by)}
}

// idle says that r needs nothing of the backbone now.
func (s *settling) idle(ends [2]reservedEnd) bool {
	return !ends[0].a.Joined || !ends[1].a.Joined || ends[0].a.Site == ends[1].a.Site
}

// kept is the way that r has, if that still carries. It is empty for who needs
// none.
func (s *settling) kept(r ReservationPlan) []string {
	if len(r.Directions) == 0 {
		return nil
	}
	ends, err := s.plan.ends(r)
	way := r.Directions[0].Path
	if err != nil || s.idle(ends) || r.moved(ends) {
		return nil
	}
	for i := range way[1:] {
		if _, ok := s.core.edge(way[i], way[i+1]); !ok {
			return nil
		}
	}
	if s.tooLong(r, way) {
		return nil
	}
	return way
}

// moved says that an end has come to another circuit, at the same PE or not:
// nobody has asked yet whether that has room.
func (r ReservationPlan) moved(ends [2]reservedEnd) bool {
	for i, d := range r.Directions {
		if d.From != ends[i].a.PE || !slices.Equal(d.In, []string{ends[i].a.PEIf}) {
			return true
		}
	}
	return false
}

// place finds a way for r: the path it asks for, or the cheapest with room for
// it both ways. It is empty where r needs nothing of the backbone.
func (s *settling) place(r ReservationPlan) ([]string, *refusal) {
	ends, err := s.plan.ends(r)
	if err != nil {
		return nil, err
	}
	if s.idle(ends) {
		return []string{}, nil
	}
	for _, l := range s.circuits(ends) {
		if l.room() < r.Rate {
			return nil, noRoom(l.full(r))
		}
	}
	from, to := ends[0].a.PE, ends[1].a.PE
	switch {
	case r.Asked != nil:
		err := s.plan.vetPath(r, ends)
		if err == nil {
			err = s.follow(r, r.Asked)
		}
		return r.Asked, err
	case from == to:
		return []string{from}, nil
	}
	if way, err := s.plan.Path(from, to); err == nil && !s.tooLong(r, way) && s.follow(r, way) == nil {
		return way, nil
	}
	if way := s.core.cheapest(from, to, s.most(r), func(a int, e edge) bool { return s.room(a, e) >= r.Rate }); way != nil {
		return way, nil
	}
	return nil, s.nowhere(r, from, to)
}

func noRoom(e *NoRoomError) *refusal { return &refusal{at: []string{"rate"}, msg: e.Error(), err: e} }

// nowhere says why no way is left for r: which line of the widest is too full.
func (s *settling) nowhere(r ReservationPlan, from, to string) *refusal {
	way := s.core.widest(from, to, s.most(r), s.room)
	if way == nil {
		if s.core.widest(from, to, len(s.core.routers), s.room) != nil {
			return refuse("between", fmt.Sprintf("all ways from %s to %s cross more than %d links, and %s", from, to, s.most(r), s.limit(r)), "")
		}
		return refuse("between", fmt.Sprintf("no way leads from %s to %s since %s failed", from, to, strings.Join(s.plan.failures(), ", ")), "")
	}
	return s.follow(r, way)
}

// failures names the links that have failed.
func (p *Plan) failures() []string {
	var down []string
	for _, l := range p.Links {
		if l.Failed || l.Lost {
			down = append(down, l.A.Node+"--"+l.B.Node)
		}
	}
	return down
}

// follow checks that r has room on a way, in both directions, and that its
// labels fit.
func (s *settling) follow(r ReservationPlan, way []string) *refusal {
	var worst *line
	for i := range way[1:] {
		e, ok := s.core.edge(way[i], way[i+1])
		if !ok {
			return refuse("path", fmt.Sprintf("link %s--%s on its path is down", way[i], way[i+1]), "")
		}
		for _, l := range s.pair(s.core.at[way[i]], e) {
			if l.room() < r.Rate && (worst == nil || l.room() < worst.room()) {
				worst = l
			}
		}
	}
	if worst != nil {
		return noRoom(worst.full(r))
	}
	if s.tooLong(r, way) {
		return refuse("path", fmt.Sprintf("the path crosses %d links, and %s", len(way)-1, s.limit(r)), "")
	}
	return nil
}

// pair is the two directions of the link at an edge of router a.
func (s *settling) pair(a int, e edge) [2]*line {
	return [2]*line{
		s.lines[[2]string{s.core.routers[a].Name, e.dev}],
		s.lines[[2]string{s.core.routers[e.to].Name, e.farDev}],
	}
}

// room is what the link at an edge has left for a reservation both ways.
func (s *settling) room(a int, e edge) Rate {
	both := s.pair(a, e)
	return min(both[0].room(), both[1].room())
}

// circuits are both directions of the access circuits of the ends.
func (s *settling) circuits(ends [2]reservedEnd) []*line {
	var all []*line
	for _, end := range ends {
		all = append(all, s.lines[[2]string{end.a.CE, "wan"}], s.lines[[2]string{end.a.PE, end.a.PEIf}])
	}
	return all
}

// charge enters r on all lines of its way.
func (s *settling) charge(r ReservationPlan, way []string) {
	ends, err := s.plan.ends(r)
	if err != nil || len(way) == 0 {
		return
	}
	lines := s.circuits(ends)
	for i := range way[1:] {
		e, _ := s.core.edge(way[i], way[i+1])
		both := s.pair(s.core.at[way[i]], e)
		lines = append(lines, both[:]...)
	}
	for _, l := range lines {
		l.taken += r.Rate
		l.by = append(l.by, r.Name)
	}
}

// most is how many links an explicit path of r may cross.
func (s *settling) most(r ReservationPlan) int {
	v, ok := s.plan.VPC(r.VPC)
	if !ok || v.Service != ServiceVPLS {
		return maxExplicit // of an l3vpn, the PE tells the sender what fits
	}
	return min(maxExplicit, (s.plan.CoreMTU-frameOf(v.MTU, 0))/labelBytes)
}

// limit says why no explicit path may be longer.
func (s *settling) limit(r ReservationPlan) string {
	if s.most(r) < maxExplicit {
		return fmt.Sprintf("an explicit path has a label for each: the backbone's MTU %d has room for %d beside the frames of %s", s.plan.CoreMTU, s.most(r), r.VPC)
	}
	return fmt.Sprintf("an explicit path has a label for each: the lines can tell packets apart by %d", maxExplicit)
}

// tooLong says that a way has more links than labels can be pushed for. Where
// the normal LSP goes that way, its one label is enough.
func (s *settling) tooLong(r ReservationPlan, way []string) bool {
	if len(way)-1 <= s.most(r) {
		return false
	}
	back := slices.Clone(way)
	slices.Reverse(back)
	return !s.normal(way) || !s.normal(back)
}

// normal says that the LSP between the ends of a way goes this way.
func (s *settling) normal(way []string) bool {
	lsp, err := s.plan.Path(way[0], way[len(way)-1])
	return s.lsps && err == nil && slices.Equal(lsp, way)
}

// directions are the two directions of r on its way.
func (s *settling) directions(r ReservationPlan, way []string) []ReservedPath {
	ends, err := s.plan.ends(r)
	if err != nil || len(way) < 2 {
		return nil
	}
	back := slices.Clone(way)
	slices.Reverse(back)
	var both []ReservedPath
	for i, path := range [][]string{way, back} {
		from, to := ends[i], ends[1-i]
		d := ReservedPath{
			From: path[0], To: path[len(path)-1], Path: slices.Clone(path),
			In: []string{from.a.PEIf}, Label: reservedLabel(r.Index, i),
		}
		if from.a.VRF != "" {
			d.Src, d.Dst, d.Table = from.prefix(), to.prefix(), int(d.Label)
		} else {
			d.SrcMAC, d.DstMAC = from.mac, to.mac
		}
		if s.normal(path) {
			s.byLSP(&d)
		} else {
			s.explicit(&d)
		}
		both = append(both, d)
	}
	return both
}

// prefix is the addresses of an end of an l3vpn.
func (e reservedEnd) prefix() netip.Prefix {
	if e.machine != nil {
		return host(e.machine.Addr)
	}
	return e.a.Subnet
}

// byLSP sends d the way that everybody goes, under the LSP's one label, which
// the last router but one pops.
func (s *settling) byLSP(d *ReservedPath) {
	lsp, _ := s.plan.LSP(d.To)
	for i, router := range d.Path[:len(d.Path)-1] {
		hop, _ := lsp.Hop(router)
		if i == 0 {
			d.Via, d.Dev = hop.Via, hop.Dev
			if hop.OutLabel != 0 {
				d.Stack = []uint32{hop.OutLabel}
			}
		}
		depth := 2
		if hop.OutLabel == 0 {
			depth = 1
		}
		d.Hops = append(d.Hops, ReservedHop{Node: router, Ifname: hop.Dev, Depth: depth})
	}
}

// explicit sends d by adjacency labels: each router but the first pops one,
// which says where to go on to.
func (s *settling) explicit(d *ReservedPath) {
	links := len(d.Path) - 1
	for i, router := range d.Path[:links] {
		e, _ := s.core.edge(router, d.Path[i+1])
		if i == 0 {
			d.Via, d.Dev = e.via, e.dev
		} else {
			d.Stack = append(d.Stack, s.core.adjacency(router, e).Label)
			s.plan.Adjacencies = s.core.withAdjacency(s.plan.Adjacencies, router, e)
		}
		d.Hops = append(d.Hops, ReservedHop{Node: router, Ifname: e.dev, Depth: links - i})
	}
}
