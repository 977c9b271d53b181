package guest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// app is what clients work on: sealed pages of memory, sealed blocks of disk,
// and the ledger. It knows the version of each page and block that it wrote, so
// an old one that came back is noticed as a mangled one is.
type app struct {
	seed  uint64
	pages []uint32 // their numbers in memory

	mu       sync.Mutex     // requests are done one after the other
	versions []uint64       // of the pages
	blocks   map[int]uint64 // their versions, of those that are known
	disk     *Disk
	ledger   *ledger
	rng      uint64
	pool     []byte // what bodies of answers are made of
}

const (
	smallestBody = 4 << 10
	largestBody  = 40 << 10
)

func newApp(seed uint64, pages []uint32, disk *Disk, l *ledger) *app {
	a := &app{
		seed: seed, pages: pages, versions: make([]uint64, len(pages)), blocks: map[int]uint64{},
		disk: disk, ledger: l, rng: mix(seed + saltVersion), pool: make([]byte, largestBody+PageSize),
	}
	text := author{seed: mix(seed), texture: textures[1]}
	for i := range len(a.pool) / lineSize {
		text.line(a.pool[i*lineSize:], i, 0)
	}
	return a
}

// fill writes the app's pages at the start.
func (a *app) fill(m *Memory) {
	for i, q := range a.pages {
		seal(m.change(int(q)), a.seed, i, a.versions[i])
		m.changed(int(q))
	}
}

func (a *app) next(n int) int {
	a.rng += saltPage
	return int(mix(a.rng) % uint64(n))
}

// done is what came of a request.
type done struct {
	value   uint64
	sectors int // of 512 bytes that it wrote to the disk
	body    []byte
	w       *Write // when it is done the answer may be given; nil: at once
}

// do does what one request asks for. wrong is what was found mangled, which the
// client is not told: the VM is at fault, not the request.
func (a *app) do(m *Memory, q ask) (d done, wrong, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch q.kind {
	case Browse:
		wrong = a.read(m, 8)
		n := smallestBody + a.next(largestBody-smallestBody)
		d.body = a.pool[a.next(PageSize):][:n]
	case Buy:
		if wrong = a.read(m, 4); wrong == nil {
			wrong = a.write(m, 3)
		}
		if a.disk != nil && wrong == nil {
			n := 1 + a.next(3)
			d.sectors = n * PageSize / sectorSize
			wrong, err = a.store(n)
		}
		d.body = a.pool[a.next(PageSize):][:smallestBody]
	}
	if err == nil && q.kind.counts() {
		d.w, err = a.ledger.add(q.client, q.count)
		d.sectors++
	}
	its, all := a.ledger.count(q.client)
	if d.value = all; q.kind == Count {
		d.value = its
	}
	return d, wrong, err
}

// read checks n pages.
func (a *app) read(m *Memory, n int) error {
	for range n {
		i := a.next(len(a.pages))
		if err := a.check(m, i); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) check(m *Memory, i int) error {
	q := int(a.pages[i])
	v, none, err := sealedAs(m.page(q), a.seed, i)
	if err == nil && (none || v != a.versions[i]) {
		err = fmt.Errorf("it is version %d: want %d", v, a.versions[i])
	}
	if err != nil {
		return fmt.Errorf("page %d, of the server: %w", q, err)
	}
	return nil
}

// verify checks all pages.
func (a *app) verify(m *Memory, note func(error)) {
	for i := range a.pages {
		a.mu.Lock()
		note(a.check(m, i))
		a.mu.Unlock()
	}
}

// verifyBlocks checks all blocks of the disk whose version it knows, and tells how
// many that were.
func (a *app) verifyBlocks(note func(error)) int {
	a.mu.Lock()
	known := slices.Sorted(maps.Keys(a.blocks))
	a.mu.Unlock()
	for _, block := range known {
		a.mu.Lock()
		wrong, err := a.checkBlock(block)
		a.mu.Unlock()
		note(errors.Join(wrong, err))
	}
	return len(known)
}

// write writes n pages anew.
func (a *app) write(m *Memory, n int) error {
	for range n {
		i := a.next(len(a.pages))
		if err := a.check(m, i); err != nil {
			return err
		}
		a.versions[i]++
		q := int(a.pages[i])
		seal(m.change(q), a.seed, i, a.versions[i])
		m.changed(q)
	}
	return nil
}

// store writes n blocks of the disk anew. A database keeps to few of them: an
// eighth of the disk's data.
func (a *app) store(n int) (wrong, err error) {
	var b [PageSize]byte
	room := max(1, (a.disk.Blocks()-dataAt)/8)
	for range n {
		block := dataAt + a.next(room)
		if wrong, err = a.checkBlock(block); wrong != nil || err != nil {
			return wrong, err
		}
		a.blocks[block]++
		seal(b[:], a.seed, block, a.blocks[block])
		if _, err := a.disk.Begin(b[:], int64(block)*PageSize); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// checkBlock checks a block of the disk, if its version is known.
func (a *app) checkBlock(block int) (wrong, err error) {
	known, ours := a.blocks[block]
	if !ours {
		return nil, nil
	}
	var b [PageSize]byte
	if _, err := a.disk.ReadAt(b[:], int64(block)*PageSize); err != nil {
		return nil, fmt.Errorf("read block %d: %w", block, err)
	}
	v, none, err := sealedAs(b[:], a.seed, block)
	if err == nil && (none || v != known) {
		err = fmt.Errorf("it is version %d: want %d", v, known)
	}
	if err != nil {
		return fmt.Errorf("block %d of the disk: %w", block, err), nil
	}
	return nil, nil
}

// save and load are for the state of the virtual CPUs.
func (a *app) save(s *cpuState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.app = append([]uint64(nil), a.versions...)
	s.draws = a.rng
	a.ledger.save(s)
}

func (a *app) load(s *cpuState, disk *Disk) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(s.app) != len(a.versions) {
		return fmt.Errorf("state with %d pages of the server: this guest has %d", len(s.app), len(a.versions))
	}
	if _, seq := a.ledger.count(0); seq != s.ledger {
		return fmt.Errorf("state with %d records in the ledger: the guest stood at %d", s.ledger, seq)
	}
	copy(a.versions, s.app)
	a.rng = s.draws
	a.disk = disk
	a.ledger.move(disk)
	return nil
}
