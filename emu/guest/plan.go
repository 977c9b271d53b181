package guest

import (
	"math/rand/v2"
	"time"
)

// role says where the content of a page comes from.
type role uint8

const (
	roleOwn     role = iota // its own words
	roleZero                // zeros
	roleShifted             // another page's bytes, from an odd place on
	roleApp                 // belongs to the server
	roleTwice               // + n: in blocks of PageSize>>n another page's
)

// A plan is what a workload's memory looks like at the start and which pages
// are written when: a function of Spec alone, so that all that depends on it
// (a guest, its successor, a test) have the same one.
type plan struct {
	profile
	seed   uint64
	pages  int
	role   []role
	source []uint32 // for roleShifted and roleTwice
	spots  []spot   // where the pages of the sweeps are written
	looks  []uint8  // textures of their own words, by page
	sweep  [][]uint32
	speed  []float64 // visits a tick, by sweep
	app    []uint32
	octave [4]float64 // lengths of the swaying's waves, in ticks
}

// cluster is how many neighbouring pages share a fate: allocators hand out runs.
const cluster = 8

func newPlan(s Spec, p profile) *plan { return buildPlan(s, p, nil) }

// buildPlan also makes room for writes to the pages set in traced.
func buildPlan(s Spec, p profile, traced []bool) *plan {
	n := int(s.Memory / PageSize)
	pl := &plan{profile: p, seed: mix(s.Seed + saltPage), pages: n, role: make([]role, n), source: make([]uint32, n), spots: make([]spot, n), looks: make([]uint8, n)}
	free := pl.shuffledClusters()
	take := func(count int) (out []uint32) {
		for len(out) < count && len(free) > 0 {
			first := int(free[0]) * cluster
			for q := first; q < min(first+cluster, n) && len(out) < count; q++ {
				if traced == nil || !traced[q] {
					out = append(out, uint32(q))
				}
			}
			free = free[1:]
		}
		return out
	}
	scale := s.scale()
	written := make([]bool, n)
	for _, sw := range p.sweeps {
		set := take(int(sw.mib * scale * (1 << 20) / PageSize))
		for _, q := range set {
			written[q] = true
		}
		pl.rand(len(pl.sweep)).Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
		ticks := float64(sw.period) * scale / float64(p.tick)
		pl.sweep = append(pl.sweep, set)
		pl.speed = append(pl.speed, min(float64(len(set)), float64(len(set))/ticks))
	}
	pl.app = take(max(cluster, min(maxAppPages, n/256)))
	for _, q := range pl.app {
		pl.role[q], written[q] = roleApp, true
	}
	for _, q := range take(int(p.zero * float64(n))) {
		pl.role[q], written[q] = roleZero, true
	}
	pl.chooseSpots()
	for q, t := range traced {
		if t {
			written[q], pl.spots[q] = true, pl.chooseSpot(q)
		}
	}
	for q := range pl.looks {
		pl.looks[q] = uint8(pl.chooseTexture(q))
	}
	pl.chooseTwins(written)
	for i, full := range [...]time.Duration{250 * time.Millisecond, time.Second, 4 * time.Second, 16 * time.Second} {
		pl.octave[i] = max(1, float64(full)*scale/float64(p.tick))
	}
	return pl
}

// maxAppPages is how many pages clients work on at most.
const maxAppPages = 1024

func (pl *plan) rand(what int) *rand.Rand {
	return rand.New(rand.NewPCG(pl.seed, uint64(what)))
}

func (pl *plan) shuffledClusters() []uint32 {
	order := make([]uint32, (pl.pages+cluster-1)/cluster)
	for i := range order {
		order[i] = uint32(i)
	}
	pl.rand(1<<20).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// chooseTwins gives the pages that are neither written nor zero their roles.
// What has a copy elsewhere refers to a page before it that has not.
func (pl *plan) chooseTwins(taken []bool) {
	still := 0
	for _, t := range taken {
		if !t {
			still++
		}
	}
	if still == 0 {
		return
	}
	// Shares are of memory, roles are for the rest alone. Below whole pages every
	// other block of a page has a copy.
	more := float64(pl.pages) / float64(still)
	var upTo [len(pl.twice)]float64
	sum, before := 0.0, 0.0
	for i, t := range pl.twice {
		share := (t - before) * more
		if i > 0 {
			share *= 2
		}
		before = t
		sum += share
		upTo[i] = sum
	}
	shifted := sum + pl.shifted*more
	var own []uint32 // pages that can be referred to, ascending
	for q := range pl.pages {
		if taken[q] {
			continue
		}
		u := draw(pl.seed, drawRole, q)
		if len(own) == 0 || u >= shifted {
			own = append(own, uint32(q))
			continue
		}
		pl.role[q] = roleShifted
		for i, t := range upTo {
			if u < t {
				pl.role[q] = roleTwice + role(i)
				break
			}
		}
		pl.source[q] = own[len(own)-1-pl.distance(q, len(own))]
	}
}

// What draw is asked for.
const (
	drawRole = iota + 1
	drawNear
	drawTexture
	drawDelta
	drawSpread
	drawWhere
	drawShift
	drawSway
	drawRead
)

// distance is how many of n pages back the copy of page q's content is.
func (pl *plan) distance(q, n int) int {
	at := [...]float64{0, 0.01, 0.10, 0.25, 0.50, 1}
	u, share := draw(pl.seed, drawNear, q), 0.0
	below := 0.0
	for i, upTo := range pl.near {
		if u < upTo {
			share = at[i] + (at[i+1]-at[i])*(u-below)/(upTo-below)
			break
		}
		below = upTo
	}
	return min(int(share*float64(n)), n-1)
}

// author is who writes page q's own words.
func (pl *plan) author(q int) author {
	return author{seed: mix(pl.seed + uint64(q)*saltPage), texture: textures[pl.looks[q]]}
}

// chooseTexture draws what the words of page q look like.
func (pl *plan) chooseTexture(q int) int {
	u, kind := draw(pl.seed, drawTexture, q), len(textures)-1
	skip := 0.0
	if pl.isWritten(q) {
		skip = pl.textures[0] // the shares of the others grow by it
	}
	sum := 0.0
	for i, share := range pl.textures {
		if i == 0 && skip > 0 {
			continue
		}
		if sum += share / (1 - skip); u < sum {
			kind = i
			break
		}
	}
	return kind
}

// spot is where in a page a write goes: count lines from first on, stride apart.
type spot struct{ first, count, stride uint8 }

func (pl *plan) isWritten(q int) bool { return pl.spots[q].count > 0 }

// chooseSpots gives each page of the sweeps its spot.
func (pl *plan) chooseSpots() {
	for _, set := range pl.sweep {
		for _, q := range set {
			pl.spots[q] = pl.chooseSpot(int(q))
		}
	}
}

func (pl *plan) chooseSpot(q int) spot {
	u, size := draw(pl.seed, drawDelta, q), 0.0
	below, last := 0.0, 0.0
	for _, d := range pl.deltas {
		if u < d.share {
			size = last + (float64(d.size)-last)*(u-below)/(d.share-below)
			break
		}
		below, last = d.share, float64(d.size)
	}
	s := spot{count: uint8(min(pageLines, max(1, int(size/lineSize+0.5)))), stride: 1}
	if draw(pl.seed, drawSpread, q) < pl.spread {
		s.stride = pageLines / s.count
	}
	room := pageLines - (int(s.count)-1)*int(s.stride)
	s.first = uint8(draw(pl.seed, drawWhere, q) * float64(room))
	return s
}

// in tells whether line i is of the spot.
func (s spot) in(i int) bool {
	d := i - int(s.first)
	return s.count > 0 && d >= 0 && d%int(s.stride) == 0 && d/int(s.stride) < int(s.count)
}

// line writes what line i of page q, whose author is a, holds after the page was
// written version times. It is not for the server's pages.
func (pl *plan) line(a *author, dst []byte, q, i int, version uint32) {
	switch r := pl.role[q]; {
	case r == roleZero:
		clear(dst[:lineSize])
	case r == roleShifted:
		pl.shiftedLine(dst, q, i)
	case r >= roleTwice && pl.isTwice(q, i):
		twin := pl.author(int(pl.source[q]))
		twin.line(dst, i, 0)
	case pl.spots[q].in(i):
		a.line(dst, i, uint64(version))
	default:
		a.line(dst, i, 0)
	}
}

// isTwice tells whether line i is in a block that is elsewhere too: the whole
// page, or every other block.
func (pl *plan) isTwice(q, i int) bool {
	n := pl.role[q] - roleTwice
	return n == 0 || i/(pageLines>>n)%2 == 0
}

// shiftedLine is line i of the other page, begun some bytes later.
func (pl *plan) shiftedLine(dst []byte, q, i int) {
	var two [2 * lineSize]byte
	twin := pl.author(int(pl.source[q]))
	by := 1 + int(draw(pl.seed, drawShift, q)*(PageSize-1))
	for k := range 2 {
		twin.line(two[k*lineSize:], (i+by/lineSize+k)%pageLines, 0)
	}
	copy(dst[:lineSize], two[by%lineSize:])
}

// fill writes what page q holds at the start.
func (pl *plan) fill(dst []byte, q int) {
	a := pl.author(q)
	for i := range pageLines {
		pl.line(&a, dst[i*lineSize:], q, i, 0)
	}
}

// active is how many pages of a sweep are in use at a tick: all, or fewer where
// the workload sways.
func (pl *plan) active(sweep int, tick uint64) int {
	n := len(pl.sweep[sweep])
	if pl.sway == 0 || n < 2 {
		return n
	}
	wave := 0.0
	for o, length := range pl.octave {
		at := float64(tick) / length
		knot := int(at)
		from, to := draw(pl.seed, drawSway+o<<8, knot), draw(pl.seed, drawSway+o<<8, knot+1)
		wave += from + (to-from)*(at-float64(knot))
	}
	wave = min(1, max(0, 2*wave/float64(len(pl.octave))-0.5)) // their mean keeps to the middle
	return max(1, int(float64(n)*(1-pl.sway*wave)))
}
