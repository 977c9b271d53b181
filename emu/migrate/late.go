package migrate

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/migrate/wire"
	inplace "github.com/vpclab/vpclab/emu/warm" // the schedule has a type warm
)

// late are the pages at the target that were placed and have no leaf in the
// proof yet. To hash a page takes longer than to decode it, and a page that is
// placed again soon need not be hashed before. So they wait, at most an eighth
// of the memory, until the target has nothing better to do; when the VM is
// about to start, those that still wait are copied and hashed from the copy
// while it runs.
type late struct {
	waits bitmap
	n     int
	queue []uint32 // in the order in which they were placed; those placed again are in it again
	head  int
	most  int
	room  []byte // for copies; its pages are there before they are needed
	list  []int  // pages whose copies are in room
}

// younger is how many pages are left to wait although there is time: they may
// be placed again.
const younger = 256

func newLate(pages int) *late {
	l := &late{waits: newBitmap(pages), most: pages / 8}
	if l.most == 0 {
		return l
	}
	room, err := unix.Mmap(-1, 0, l.most*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		l.most = 0 // no room: every page is hashed at once
		return l
	}
	_ = inplace.Range(room) // or each page comes as it is copied to, while the VM stands
	l.room = room
	return l
}

func (l *late) close() {
	if l.room != nil {
		_ = unix.Munmap(l.room) // it was mapped here
		l.room = nil
	}
}

func (l *late) add(page int) {
	if !l.waits.has(page) {
		l.waits.set(page)
		l.n++
	}
	// Now it is the youngest. The place that it had before in the queue counts
	// for it too: then it is hashed sooner, which does no harm.
	l.queue = append(l.queue, uint32(page))
}

func (l *late) full() bool { return l.n > l.most }

// idle tells whether there is a page to hash when there is time.
func (l *late) idle() bool { return l.n > younger }

// oldest takes the page that has waited longest; -1: none waits.
func (l *late) oldest() int {
	for l.head < len(l.queue) {
		page := int(l.queue[l.head])
		if l.head++; l.head > 1<<16 && l.head > len(l.queue)/2 {
			l.queue = append(l.queue[:0], l.queue[l.head:]...)
			l.head = 0
		}
		if l.waits.has(page) {
			l.waits.unset(page)
			l.n--
			return page
		}
	}
	return -1
}

// forget lets pages go that have no content here.
func (l *late) forget(pages bitmap) {
	for i, w := range pages {
		l.waits[i] &^= w
	}
	l.n = l.waits.count()
}

func (l *late) clear() {
	clear(l.waits)
	l.n, l.queue, l.head = 0, nil, 0
}

// keep copies the pages that wait.
func (l *late) keep(memory []byte) {
	for page := l.waits.next(0); page >= 0; page = l.waits.next(page + 1) {
		copy(l.room[len(l.list)*PageSize:], memory[page*PageSize:(page+1)*PageSize])
		l.list = append(l.list, page)
	}
	l.clear()
}

// kept gives out what was copied.
func (l *late) kept(each func(page int, data []byte)) {
	for i, page := range l.list {
		each(page, l.room[i*PageSize:(i+1)*PageSize])
	}
	l.list = nil
}

// post gets a target's messages, and hashes pages while there is none.
type post struct {
	t    *target
	came chan received
	more chan struct{} // the last message has been dealt with
	stop context.CancelFunc
	done chan struct{}
}

type received struct {
	m   wire.Message
	err error
}

// newPost begins to receive; close must be called before anybody else does.
func newPost(ctx context.Context, t *target) *post {
	ctx, stop := context.WithCancel(ctx)
	p := &post{t: t, came: make(chan received), more: make(chan struct{}), stop: stop, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for {
			select {
			case <-p.more:
			case <-ctx.Done():
				return
			}
			m, err := t.next(ctx, "pages")
			select {
			case p.came <- received{m, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return p
}

// next is the next message, whose payload is valid until the next call.
func (p *post) next(ctx context.Context) (wire.Message, error) {
	select {
	case p.more <- struct{}{}:
	case <-p.done:
		return wire.Message{}, context.Cause(ctx)
	}
	for p.t.late.idle() {
		select {
		case r := <-p.came:
			return r.m, r.err
		default:
			for range 8 {
				p.t.prove1()
			}
		}
	}
	select {
	case r := <-p.came:
		return r.m, r.err
	case <-p.done:
		return wire.Message{}, context.Cause(ctx)
	}
}

func (p *post) close() {
	p.stop()
	<-p.done
}
