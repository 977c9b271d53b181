package guest

import (
	"bytes"
	"fmt"
	"math/bits"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/warm"
)

// Snapshot is a memory as it was last looked at, for guests that mark no page
// that they write: a real VM's RAM can be mapped by anybody, and tells nobody
// what has changed in it. So it is compared with a copy, page by page, and what
// differs is copied. What is sent to elsewhere is taken from the copy: it cannot
// change while it is read, and what the other end holds is what the copy held. A
// page that changes and changes back is no change, and none can be lost.
//
// Its methods are for one goroutine.
type Snapshot struct {
	ram, copied []byte
	mapped      []byte   // of the copy
	begun       bool     // the copy is one
	said        []uint64 // pages that Dirty has called so since the last look

	// What Glance has learned. found are pages that had changed in this turn
	// through the memory, lately those of the turn before.
	found, lately []uint64
	next, nextHot int
	hots          int        // bits in lately
	cost          float64    // of looking at a page, ns
	at            event.Mono // of the last look
}

// NewSnapshot makes room for a copy of ram, a whole number of pages. Its first
// Collect makes the copy. Close must be called.
func NewSnapshot(ram []byte) (*Snapshot, error) {
	mapped, err := unix.Mmap(-1, 0, len(ram), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err == nil {
		// Or each page comes as it is copied to.
		if err = warm.Range(mapped); err != nil {
			_ = unix.Munmap(mapped) // it was mapped here
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make room for a copy of a memory of %d bytes: %w", len(ram), err)
	}
	n := words(len(ram) / PageSize)
	return &Snapshot{ram: ram, copied: mapped, mapped: mapped, said: make([]uint64, n), found: make([]uint64, n), lately: make([]uint64, n), cost: firstCost}, nil
}

// Close gives the copy up.
func (s *Snapshot) Close() error {
	if s.mapped == nil {
		return nil
	}
	err := unmap(s.mapped)
	s.ram, s.copied, s.mapped = nil, nil, nil
	return err
}

// Bytes are the copy, page by page; it changes in Collect and Glance, and at no
// other time.
func (s *Snapshot) Bytes() []byte { return s.copied }

// Pages is their number.
func (s *Snapshot) Pages() int { return len(s.copied) / PageSize }

// Dirty tells whether a page is not what the copy has: 0.1 to 0.4 µs. Who leaves
// it out for that finds it in the next Collect or Glance, even if it is by then
// as it was.
func (s *Snapshot) Dirty(page int) bool {
	at := page * PageSize
	if bytes.Equal(s.ram[at:at+PageSize], s.copied[at:at+PageSize]) {
		return false
	}
	s.said[page/64] |= 1 << (page % 64)
	return true
}

// Collect brings the whole copy up to date, overwrites into with the pages that
// had changed (one bit a page, 64 a word) and tells how many there are. Where the
// guest stands, the copy then is what its memory holds. The first one finds
// nothing changed, as there was no copy before.
func (s *Snapshot) Collect(into []uint64) int {
	clear(into)
	began := event.Now()
	if !s.begun {
		s.begun = true
		s.each(func(first, end int) { copy(s.copied[first*PageSize:end*PageSize], s.ram[first*PageSize:]) })
	} else {
		s.each(func(first, end int) { s.compare(first, end, into) })
		s.cost = float64(event.Now().Sub(began).Nanoseconds()) / float64(max(1, s.Pages()))
	}
	n := s.note(into)
	s.turn()
	s.at = event.Now()
	return n
}

// note adds to into what Dirty has said, and counts.
func (s *Snapshot) note(into []uint64) (n int) {
	for i, w := range s.said {
		into[i] |= w
		s.found[i] |= into[i]
		n += bits.OnesCount64(into[i])
	}
	clear(s.said)
	return n
}

const (
	// leastShare is how many pages are worth a goroutine, a multiple of 64: 8 MiB.
	leastShare = 2048
	// mostShares bounds them: a few of today's cores fill the memory's bus.
	mostShares = 4
)

// each visits the memory in pieces whose beginnings are multiples of 64 pages,
// on as many processors as help.
func (s *Snapshot) each(visit func(first, end int)) {
	shares := max(1, min(runtime.GOMAXPROCS(0), mostShares, s.Pages()/leastShare))
	share := (s.Pages()/shares + 63) &^ 63
	if shares == 1 {
		visit(0, s.Pages())
		return
	}
	var all sync.WaitGroup
	for i := range shares {
		first, end := min(i*share, s.Pages()), min((i+1)*share, s.Pages())
		if i == shares-1 {
			end = s.Pages()
		}
		all.Go(func() { visit(first, end) })
	}
	all.Wait()
}

// compare brings pages of the copy up to date.
func (s *Snapshot) compare(first, end int, into []uint64) {
	for page := first; page < end; page++ {
		at := page * PageSize
		now, was := s.ram[at:at+PageSize], s.copied[at:at+PageSize]
		if bytes.Equal(now, was) {
			continue
		}
		copy(was, now)
		into[page/64] |= 1 << (page % 64)
	}
}

const (
	// glanceShare is which part of the time Glance may take.
	glanceShare = 1.0 / 8
	glanceLeast = 128 // pages
	// firstCost is what a page is taken to cost until one was looked at.
	firstCost = 500 // ns
)

// Glance is Collect of as many pages as may be looked at all the time without
// keeping the processor from the guest: those that have changed lately, and of the
// others the next ones in turn. What it does not look at is found later.
func (s *Snapshot) Glance(into []uint64) int {
	began := event.Now()
	budget := glanceLeast
	if s.at != 0 {
		budget = max(budget, int(float64(began.Sub(s.at).Nanoseconds())*glanceShare/s.cost))
	}
	looked, n := s.glance(into, min(budget, s.Pages()))
	s.at = event.Now()
	if looked > 0 {
		cost := float64(s.at.Sub(began).Nanoseconds()) / float64(looked)
		s.cost += (cost - s.cost) / 8
	}
	return n
}

// glance looks at about so many pages.
func (s *Snapshot) glance(into []uint64, budget int) (looked, n int) {
	clear(into)
	if !s.begun {
		return 0, s.Collect(into)
	}
	for range min(budget/2, s.hots) {
		page := s.hot()
		looked++
		s.compare(page, page+1, into)
	}
	end := false
	for ; looked < budget; looked++ {
		s.compare(s.next, s.next+1, into)
		if s.next++; s.next == s.Pages() {
			s.next, end = 0, true
		}
	}
	n = s.note(into)
	if end {
		s.turn()
	}
	return looked, n
}

// hot is the next of the pages that have changed lately, of which there are some.
func (s *Snapshot) hot() int {
	words := len(s.lately)
	at := s.nextHot
	for i := at / 64; ; i = (i + 1) % words {
		w := s.lately[i]
		if i == at/64 && at%64 != 0 {
			w &= ^uint64(0) << (at % 64)
			at = at &^ 63 // the second time all of its word counts
		}
		if w != 0 {
			page := i*64 + bits.TrailingZeros64(w)
			s.nextHot = (page + 1) % (words * 64)
			return page
		}
	}
}

// turn ends a turn through the memory.
func (s *Snapshot) turn() {
	s.found, s.lately = s.lately, s.found
	clear(s.found)
	s.hots = 0
	for _, w := range s.lately {
		s.hots += bits.OnesCount64(w)
	}
}
