package replicate

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/warm"
)

const pageSize = migrate.PageSize

// staging is where the pages, or blocks, of one epoch are copied to, so that
// the VM need not stand while they are encoded and sent.
//
// Most of them are copied before the VM is stopped: those that it does not write
// again until then need not be copied while it stands. A page's bit is set after
// the page was changed; so a page that is copied after its bit was taken, and
// has no bit when the VM stands, is as it was copied.
//
// Its memory is outside of Go's heap, as large as all that there is, and present
// as far as it has been used.
type staging struct {
	units  []uint32 // of the early part, ascending; then of the late one, ascending
	early  int
	memory []byte
	warmed int
	most   int // of late ones, so far
}

// warmPiece is how much is made present at a time.
const warmPiece = 1 << 20

func newStaging(units int) (*staging, error) {
	m, err := unix.Mmap(-1, 0, max(units, 1)*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d pages to stage: %w", units, err)
	}
	return &staging{memory: m}, nil
}

func (s *staging) close() {
	if s.memory != nil {
		_ = unix.Munmap(s.memory) // it can fail only for what is not mapped
		s.memory = nil
	}
}

func (s *staging) at(i int) []byte { return s.memory[i*pageSize : (i+1)*pageSize] }

// ready makes memory for so many units present.
func (s *staging) ready(units int) {
	for end := min(units*pageSize, len(s.memory)); s.warmed < end; {
		to := min(s.warmed+warmPiece, len(s.memory))
		_ = warm.Range(s.memory[s.warmed:to]) // a kernel that cannot lets them come one by one
		s.warmed = to
	}
}

// fetch copies consecutive units, from the first on.
type fetch func(to []byte, first int) error

// ahead copies what changed, while the VM runs. It takes all bits of dirty.
func (s *staging) ahead(dirty bitmap, get fetch) error {
	s.units = dirty.take(s.units[:0])
	s.early = len(s.units)
	s.ready(s.early + 2*s.most)
	return s.runs(0, s.early, get)
}

// rest copies what has changed since, while the VM stands.
func (s *staging) rest(dirty bitmap, get fetch) error {
	s.units = dirty.take(s.units)
	late := s.units[s.early:]
	new, old := 0, 0
	for _, u := range late {
		at, found := slices.BinarySearch(s.units[old:s.early], u)
		if old += at; !found {
			late[new] = u
			new++
			continue
		}
		if err := get(s.at(old), int(u)); err != nil {
			return err
		}
	}
	s.units = s.units[:s.early+new]
	s.most = max(s.most, new)
	return s.runs(s.early, len(s.units), get)
}

// runs copies units [from, to) of the list, consecutive ones at once.
func (s *staging) runs(from, to int, get fetch) error {
	for i := from; i < to; {
		n := 1
		for i+n < to && s.units[i+n] == s.units[i]+uint32(n) {
			n++
		}
		if err := get(s.memory[i*pageSize:(i+n)*pageSize], int(s.units[i])); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// batches gives pieces of at most most units: each ascending.
func (s *staging) batches(most func() int, do func(units []uint32, data []byte) error) error {
	for _, part := range [2][2]int{{0, s.early}, {s.early, len(s.units)}} {
		for i := part[0]; i < part[1]; {
			n := min(most(), part[1]-i)
			if err := do(s.units[i:i+n], s.memory[i*pageSize:(i+n)*pageSize]); err != nil {
				return err
			}
			i += n
		}
	}
	return nil
}
