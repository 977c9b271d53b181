package migrate

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// vpclab's own schedule. Xen's rounds send a page whether or not it is about to
// be written again. Here each page has a rate at which it is written, learnt
// by looking at the dirty bitmap at every batch, and:
//
//   - the first pass leaves out all pages that have been written meanwhile;
//   - a later pass takes the pending pages that will probably still be clean at
//     the pause, the coldest first, so that the warmest age least;
//   - when nothing else pays, pages too hot for that are sent once, if that
//     makes what they cost at the pause so much less: then they are deltas;
//   - before each pass it is estimated what the last round would be now and what
//     after the pass. The pass is made if the VM then stands for less, by a
//     share of what the pass sends; else it is paused.
const (
	// pauseWeight is how many bytes sent while the VM runs one byte sent while
	// it stands is worth.
	pauseWeight = 4
	// stays is how probable it must be that a page is clean until the pause.
	stays = 0.5
	// ownPasses and ownFactor end what does not converge; after ownHurry passes
	// another one must be worth the whole trip that it takes.
	ownPasses = 30
	ownHurry  = 10
	ownFactor = 2 // times the memory
	// leastHalf bounds the half-life of what is known of a page from below.
	leastHalf = 20 * time.Millisecond
)

// heat is what is known of how a page is written: the number of looks at which
// it was dirty, halved every half-life.
type heat struct {
	score float32
	at    event.Mono // when score was brought up to date
}

// schedule is vpclab's way through the pages.
type schedule struct {
	*copier
	pending   bitmap // pages whose contents the target does not have
	news      bitmap // what the last look has found
	heat      []heat
	half      time.Duration
	looked    event.Mono
	inflow    float64 // clean pages that become dirty, a second
	fresh     float64 // bytes that a page comes to that was never sent
	again     float64 // and one that was; until there was one, a guess
	seenAgain bool
	sentAll   int64 // pages
}

func (c *copier) ownLive(ctx context.Context, toSend bitmap) error {
	s := &schedule{
		copier: c, pending: toSend, news: newBitmap(c.pages), heat: make([]heat, c.pages), half: time.Second,
		fresh: PageSize / 2, again: PageSize / 6,
	}
	if err := s.first(ctx); err != nil {
		return err
	}
	for pass := 1; ; {
		if s.held() { // it comes by here all the time
			s.look(s.glance)
		} else {
			s.look(s.collect)
		}
		list, pays := s.choose(pass)
		skip := pays
		if !pays {
			list, pays = s.hot()
		}
		if !pays || pass >= ownPasses || s.sentAll > ownFactor*int64(c.pages) {
			if !c.held() {
				return nil
			}
			// What there is to send may grow; it is kept small.
			if err := c.hold(ctx, holdTime); err != nil {
				return err
			}
			if !pays {
				continue
			}
		}
		if err := s.pass(ctx, list, skip); err != nil {
			return err
		}
		pass++
	}
}

// look takes the dirty bits by collect, or by glance.
func (s *schedule) look(take func(bitmap) int) {
	now := s.belt.now()
	clear(s.news)
	if take(s.news) == 0 {
		s.looked = now
		return
	}
	came := 0
	for page := s.news.next(0); page >= 0; page = s.news.next(page + 1) {
		h := &s.heat[page]
		h.score = h.score*float32(s.fade(now.Sub(h.at))) + 1
		h.at = now
		if !s.pending.has(page) {
			s.pending.set(page)
			came++
		}
	}
	if r := s.current(); len(s.rounds) > 0 {
		r.Dirtied += came
	}
	if d := now.Sub(s.looked).Seconds(); s.looked != 0 && d > 0 {
		// As slow to forget as the heat of a page.
		keep := s.fade(now.Sub(s.looked))
		s.inflow = s.inflow*keep + float64(came)/d*(1-keep)
	}
	s.looked = now
}

// fade is what a score is worth after a time.
func (s *schedule) fade(d time.Duration) float64 { return math.Exp2(-d.Seconds() / s.half.Seconds()) }

// hotness is the rate at which a page is written, a second.
func (s *schedule) hotness(page int, now event.Mono) float64 {
	h := s.heat[page]
	if h.score == 0 {
		return 0
	}
	return float64(h.score) * s.fade(now.Sub(h.at)) * math.Ln2 / s.half.Seconds()
}

// bytes estimates what a page comes to if it is sent now.
func (s *schedule) bytes(page uint32) float64 {
	if s.sentIn[page] == 0 {
		return s.fresh
	}
	return s.again
}

// rate never is nothing.
func (s *schedule) rate() float64 { return max(s.belt.rate(), 1e4) }

// first sends all pages that the target lacks and that are not written meanwhile.
func (s *schedule) first(ctx context.Context) error {
	if err := s.opt.step(StepSourceRound); err != nil {
		return err
	}
	s.begin(s.pending.count())
	touched := newBitmap(s.pages)
	for page := s.pending.next(0); page >= 0; {
		if err := s.belt.room(ctx); err != nil {
			return err
		}
		s.look(s.glance)
		touched.or(s.news)
		list := s.list[:0]
		for most := s.belt.batch(); page >= 0 && len(list) < most; page = s.pending.next(page + 1) {
			if touched.has(page) || s.overlooked(page) {
				s.current().Skipped++
				continue
			}
			list = append(list, uint32(page))
			s.pending.unset(page)
		}
		if err := s.carry(ctx, list); err != nil {
			return err
		}
		if rate := s.belt.rate(); rate > 0 {
			whole := float64(s.pages) * s.fresh / rate
			s.half = max(leastHalf, time.Duration(whole/8*float64(time.Second)))
		}
	}
	return s.end(ctx)
}

// carry sends pages of one kind and learns what they come to. Pages of zeros,
// which come to nothing, say nothing of others.
func (s *schedule) carry(ctx context.Context, list []uint32) error {
	if len(list) == 0 {
		return nil
	}
	never := s.sentIn[list[0]] == 0
	if err := s.send(ctx, list); err != nil {
		return err
	}
	s.sentAll += int64(len(list))
	filled := 0
	for _, page := range list {
		if s.marks.leaves[page] != zeroLeaf {
			filled++
		}
	}
	if filled == 0 {
		return nil
	}
	cost := float64(s.cost[list[0]]) * float64(len(list)) / float64(filled)
	weight := min(1, float64(filled)/512)
	if never {
		s.fresh += (cost - s.fresh) * weight
		if !s.seenAgain {
			s.again = s.fresh / 3
		}
	} else {
		s.again += (cost - s.again) * weight
		s.seenAgain = true
	}
	return nil
}

// warm is a pending page and how hot it is.
type warm struct {
	page uint32
	rate float64
}

// choose lists the pending pages that are worth sending, coldest first, and
// tells whether sending them shortens the pause by enough.
func (s *schedule) choose(pass int) (list []warm, pays bool) {
	now := s.belt.now()
	var all []warm
	left := 0.0 // bytes of the last round if it began now
	for page := s.pending.next(0); page >= 0; page = s.pending.next(page + 1) {
		all = append(all, warm{uint32(page), s.hotness(page, now)})
		left += s.bytes(uint32(page))
	}
	slices.SortFunc(all, func(a, b warm) int { return cmp.Or(cmp.Compare(a.rate, b.rate), cmp.Compare(a.page, b.page)) })
	// A page ages from when it is sent until the pause: on average half of the
	// pass, and a trip.
	send, back := 0.0, 0.0
	exposed := s.belt.trip().Seconds()
	n := 0
	for _, w := range all {
		b := s.bytes(w.page)
		age := exposed + (send+b)/s.rate()/2
		again := 1 - math.Exp(-w.rate*age)
		if 1-again < stays {
			break
		}
		send += b
		back += again * s.again
		n++
	}
	list = all[:n]
	later := left - send + back + s.inflow*(send/s.rate()+exposed)*s.again
	gain := left - later
	// A pass takes a trip, however little it sends, and that counts the more the
	// longer it goes on.
	trip := s.rate() * exposed * float64(pass-1) / ownHurry
	return list, n > 0 && (1+pauseWeight)*gain > send+trip
}

// hot lists the pages that were never sent because they are too hot, and tells
// whether to send them once.
func (s *schedule) hot() (list []warm, pays bool) {
	now := s.belt.now()
	for page := s.pending.next(0); page >= 0; page = s.pending.next(page + 1) {
		if s.sentIn[page] == 0 {
			list = append(list, warm{uint32(page), s.hotness(page, now)})
		}
	}
	slices.SortFunc(list, func(a, b warm) int { return cmp.Or(cmp.Compare(a.rate, b.rate), cmp.Compare(a.page, b.page)) })
	return list, len(list) > 0 && (1+pauseWeight)*(s.fresh-s.again) > s.fresh
}

// pass sends the listed pages; with skip, without those that are written
// before their turn comes.
func (s *schedule) pass(ctx context.Context, list []warm, skip bool) error {
	if err := s.opt.step(StepSourceRound); err != nil {
		return err
	}
	s.begin(len(list))
	for at := 0; at < len(list); {
		if err := s.belt.room(ctx); err != nil {
			return err
		}
		s.look(s.glance)
		batch := s.list[:0]
		never := s.sentIn[list[at].page] == 0
		for most := s.belt.batch(); at < len(list) && len(batch) < most && (s.sentIn[list[at].page] == 0) == never; at++ {
			page := list[at].page
			if skip && (s.news.has(int(page)) || s.overlooked(int(page))) {
				s.current().Skipped++
				continue
			}
			batch = append(batch, page)
			s.pending.unset(int(page))
		}
		slices.Sort(batch)
		if err := s.carry(ctx, batch); err != nil {
			return err
		}
	}
	s.look(s.glance)
	return s.end(ctx)
}
