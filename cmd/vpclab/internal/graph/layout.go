package graph

import (
	"cmp"
	"math"
	"slices"

	"github.com/vpclab/vpclab/topo"
)

// Sizes of what is drawn, in SVG pixels.
const (
	margin       = 28.0
	titleHeight  = 34.0
	routerWidth  = 96.0
	routerHeight = 40.0
	siteWidth    = 250.0
	siteHead     = 38.0
	memberHeight = 19.0
	maxMembers   = 8 // lines of a site's box; the rest is counted
	siteGap      = 18.0
	coreGap      = 150.0 // between a PE and the P routers beside it, for the link's label
	accessGap    = 110.0 // between a site and its PE
	pSpace       = 110.0 // between P routers on the ellipse
	rrGap        = 46.0  // between the Ps and a reflector under them
	pPair        = 220.0 // between the centres of two P routers in a row
)

// box is a placed thing; x and y are its centre.
type box struct {
	x, y, w, h float64
}

// layout is where everything lies.
type layout struct {
	boxes  map[string]box // routers and plain nodes by name, sites by siteID
	width  float64
	height float64
}

// side is a column of PEs with their sites.
type side struct {
	pes   []string
	sites map[string][]Site // by PE
}

// place computes the layout: P routers on an ellipse (a row when they are
// few), each PE left or right of them, on the side where its P neighbours lie
// and at their height, its sites outside of it.
func (g *Graph) place() *layout {
	ps, pes, rr := g.split()
	left, right := g.sides(ps, pes)
	l := &layout{boxes: map[string]box{}}

	hl, hr := left.height(), right.height()
	coreH := pRingHeight(len(ps))
	above := max(hl, hr, coreH, routerHeight) / 2
	below := above
	if rr != "" && len(ps) < 3 { // the reflector stands under a row of Ps
		below = max(above, coreH/2+rrGap+routerHeight)
	}
	coreW := pRingWidth(len(ps))

	x := margin
	if left.any() {
		x += siteWidth + accessGap
	}
	leftPE := x + routerWidth/2
	x += routerWidth + coreGap
	centre := x + coreW/2
	x += coreW
	rightPE := x + coreGap + routerWidth/2
	if len(right.pes) > 0 {
		x += coreGap + routerWidth
		if right.any() {
			x += accessGap + siteWidth
		}
	}
	l.width = x + margin
	middle := titleHeight + margin + above

	l.placeRing(ps, centre, middle)
	if rr != "" {
		y := middle
		if len(ps) < 3 {
			y = middle + coreH/2 + rrGap + routerHeight/2
		}
		l.boxes[rr] = box{centre, y, routerWidth, routerHeight}
	}
	l.placeSide(left, leftPE, margin+siteWidth/2, middle)
	l.placeSide(right, rightPE, rightPE+routerWidth/2+accessGap+siteWidth/2, middle)
	l.height = titleHeight + 2*margin + above + below
	l.placePlain(g.Plain)
	return l
}

// split sorts the routers by kind.
func (g *Graph) split() (ps, pes []string, rr string) {
	for _, r := range g.Routers {
		switch r.Kind {
		case topo.KindP:
			ps = append(ps, r.Name)
		case topo.KindPE:
			pes = append(pes, r.Name)
		case topo.KindRR:
			rr = r.Name
		}
	}
	return ps, pes, rr
}

// ringPoint is where the i-th of n P routers lies around the centre: a point
// for one, a row for two, from the upper left clockwise on an ellipse for
// more.
func ringPoint(i, n int) (x, y float64) {
	switch n {
	case 1:
		return 0, 0
	case 2:
		return (float64(i) - 0.5) * pPair, 0
	}
	angle := -math.Pi*3/4 + 2*math.Pi*float64(i)/float64(n)
	return pRingWidth(n) / 2 * math.Cos(angle) / math.Cos(math.Pi/4) * 0.75, pRingHeight(n) / 2 * math.Sin(angle)
}

func pRingWidth(n int) float64 {
	switch {
	case n < 2:
		return routerWidth
	case n == 2:
		return routerWidth + pPair
	}
	return routerWidth + float64(n)*pSpace*0.55
}

func pRingHeight(n int) float64 {
	switch {
	case n == 0:
		return 0
	case n < 3:
		return routerHeight
	}
	return routerHeight + float64(n)*pSpace*0.5
}

func (l *layout) placeRing(ps []string, cx, cy float64) {
	for i, p := range ps {
		x, y := ringPoint(i, len(ps))
		l.boxes[p] = box{cx + x, cy + y, routerWidth, routerHeight}
	}
}

// sides shares the PEs out between left and right: by the mean position of
// their P neighbours, but so that both sides get about half of the height.
func (g *Graph) sides(ps, pes []string) (left, right side) {
	type place struct {
		pe   string
		x, y float64
	}
	sites := map[string][]Site{}
	for _, s := range g.Sites {
		sites[s.PE] = append(sites[s.PE], s)
	}
	var places []place
	for i, pe := range pes {
		p := place{pe: pe, y: float64(i)}
		n := 0.0
		for _, e := range g.Edges {
			for j, name := range ps {
				if e.A == pe && e.B == name || e.B == pe && e.A == name {
					x, y := ringPoint(j, len(ps))
					p.x, p.y, n = p.x+x, p.y+y, n+1
				}
			}
		}
		if n > 0 {
			p.x, p.y = p.x/n, (p.y-float64(i))/n
		}
		places = append(places, p)
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.x, b.x) })
	half := (len(places) + 1) / 2
	l, r := slices.Clone(places[:half]), slices.Clone(places[half:])
	for _, s := range []struct {
		places []place
		side   *side
	}{{l, &left}, {r, &right}} {
		slices.SortStableFunc(s.places, func(a, b place) int { return cmp.Compare(a.y, b.y) })
		s.side.sites = sites
		for _, p := range s.places {
			s.side.pes = append(s.side.pes, p.pe)
		}
	}
	return left, right
}

func (s side) any() bool {
	for _, pe := range s.pes {
		if len(s.sites[pe]) > 0 {
			return true
		}
	}
	return false
}

// height is what the side needs.
func (s side) height() float64 {
	h := 0.0
	for _, pe := range s.pes {
		h += s.blockHeight(pe) + siteGap
	}
	return max(0, h-siteGap)
}

// blockHeight is the height of one PE's sites, or of the PE if they are less.
func (s side) blockHeight(pe string) float64 {
	h := -siteGap
	for _, site := range s.sites[pe] {
		h += siteGap + site.height()
	}
	return max(h, routerHeight)
}

func (s Site) height() float64 {
	n := min(len(s.Members), maxMembers)
	if len(s.Members) > maxMembers {
		n++ // the line that counts the rest
	}
	return siteHead + float64(n)*memberHeight + 8
}

// placeSide stacks the blocks of a side around the middle.
func (l *layout) placeSide(s side, peX, siteX, middle float64) {
	y := middle - s.height()/2
	for _, pe := range s.pes {
		h := s.blockHeight(pe)
		l.boxes[pe] = box{peX, y + h/2, routerWidth, routerHeight}
		total := -siteGap
		for _, site := range s.sites[pe] {
			total += siteGap + site.height()
		}
		top := y + (h-total)/2
		for _, site := range s.sites[pe] {
			l.boxes[siteID(site.Name)] = box{siteX, top + site.height()/2, siteWidth, site.height()}
			top += site.height() + siteGap
		}
		y += h + siteGap
	}
}

// placePlain puts plain nodes on a grid below the rest.
func (l *layout) placePlain(nodes []string) {
	if len(nodes) == 0 {
		return
	}
	cols := int(math.Ceil(math.Sqrt(float64(len(nodes)) * 1.6)))
	const dx, dy = routerWidth + 130, routerHeight + 70
	l.width = max(l.width, 2*margin+float64(cols)*dx-130)
	if len(l.boxes) == 0 {
		l.height = titleHeight + margin
	}
	for i, n := range nodes {
		// Odd rows are shifted, so that no link runs through a third box.
		row, col := i/cols, i%cols
		shift := 0.0
		if row%2 == 1 {
			shift = 40
		}
		l.boxes[n] = box{margin + routerWidth/2 + float64(col)*dx + shift, l.height + routerHeight/2 + float64(row)*dy, routerWidth, routerHeight}
	}
	rows := (len(nodes) + cols - 1) / cols
	l.height += float64(rows-1)*dy + routerHeight + margin
	l.width += 40
}
