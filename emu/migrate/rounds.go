package migrate

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// copier sends pages of a VM in rounds and accounts for them.
type copier struct {
	vm      Source
	glancer Glancer // nil: to collect costs nothing
	memory  []byte
	pages   int
	belt    belt
	opt     *Options
	plan    plan
	rounds  []Round

	marks   *proof // fingerprints of the pages as they were sent
	seed    uint64
	sentIn  []uint16 // the round that each page was sent last in, from 1; 0: never
	cost    []uint16 // bytes that it came to then
	paused  bool
	slow    slowdown
	scratch bitmap

	list []uint32
	data []byte
}

func newCopier(vm Source, b belt, opt *Options, p plan) *copier {
	memory := vm.Memory()
	n := len(memory) / PageSize
	glancer, _ := vm.(Glancer)
	return &copier{
		vm: vm, glancer: glancer, memory: memory, pages: n, belt: b, opt: opt, plan: p,
		marks: newProof(n), seed: rand.Uint64(), sentIn: make([]uint16, n), cost: make([]uint16, n), scratch: newBitmap(n),
		list: make([]uint32, 0, batchMax), data: make([]byte, batchMax*PageSize),
	}
}

// collect adds to m the pages written since the last call.
func (c *copier) collect(m bitmap) int {
	clear(c.scratch)
	n := c.vm.Collect(c.scratch)
	m.or(c.scratch)
	return n
}

// glance is collect as far as it costs little.
func (c *copier) glance(m bitmap) int {
	if c.glancer == nil {
		return c.collect(m)
	}
	clear(c.scratch)
	n := c.glancer.Glance(c.scratch)
	m.or(c.scratch)
	return n
}

// overlooked tells whether a page is dirty of which glances may not have told.
func (c *copier) overlooked(page int) bool { return c.glancer != nil && c.vm.Dirty(page) }

// holds takes pages out of toSend that the target says that it holds, and that
// are the same here by their 256-bit hash. One that changes while it is hashed
// is dirty afterwards.
func (c *copier) holds(toSend bitmap, list []byte) error {
	if len(list)%holdSize != 0 {
		return fmt.Errorf("a list of held pages of %d bytes", len(list))
	}
	for ; len(list) > 0; list = list[holdSize:] {
		page := int(binary.BigEndian.Uint32(list))
		if page >= c.pages {
			return fmt.Errorf("the target holds page %d of a memory of %d", page, c.pages)
		}
		copy(c.data, c.memory[page*PageSize:(page+1)*PageSize])
		if data := c.data[:PageSize]; leaf(data) == digest(list[4:holdSize]) {
			toSend.unset(page)
			c.marks.set(page, fingerprint(data, c.seed))
		}
	}
	return nil
}

// begin opens a round.
func (c *copier) begin(toSend int) *Round {
	c.rounds = append(c.rounds, Round{Began: c.belt.now(), ToSend: toSend, Paused: c.paused, Bytes: -c.belt.sent()})
	return c.current()
}

func (c *copier) current() *Round { return &c.rounds[len(c.rounds)-1] }

// end closes it.
func (c *copier) end(ctx context.Context) error {
	if c.paused {
		if err := c.slow.pay(ctx, c.belt); err != nil {
			return err
		}
	}
	if err := c.belt.mark(ctx, len(c.rounds)); err != nil {
		return err
	}
	c.marks.root() // what is known now need not be computed in the pause
	r := c.current()
	r.Ended = c.belt.now()
	r.Bytes += c.belt.sent()
	return nil
}

// send copies the listed pages and puts them on the belt as one batch. A page
// that changes while it is copied is dirty afterwards, and sent again.
func (c *copier) send(ctx context.Context, list []uint32) error {
	if len(list) == 0 {
		return nil
	}
	step := StepSourceBatch
	if c.paused {
		step = StepSourceLast
	}
	if err := c.opt.step(step); err != nil {
		return err
	}
	data := c.data[:len(list)*PageSize]
	for i, page := range list {
		at := int(page) * PageSize
		copy(data[i*PageSize:(i+1)*PageSize], c.memory[at:at+PageSize])
	}
	n, err := c.belt.put(ctx, list, data)
	if err != nil {
		return err
	}
	c.slow.batch(c.belt)
	// While the link carries the batch.
	r := c.current()
	share := uint16(min(n/len(list), 1<<16-1))
	for i, page := range list {
		c.marks.set(int(page), fingerprint(data[i*PageSize:(i+1)*PageSize], c.seed))
		if before := c.sentIn[page]; before != 0 {
			c.rounds[before-1].Final--
			c.rounds[before-1].FinalBytes -= int64(c.cost[page])
		}
		c.sentIn[page], c.cost[page] = uint16(len(c.rounds)), share
	}
	r.Sent += len(list)
	r.Final += len(list)
	r.FinalBytes += int64(share) * int64(len(list))
	return nil
}

// round sends the pages of toSend once. With skip, pages that are dirty again
// when their batch is made are left to a later round.
func (c *copier) round(ctx context.Context, toSend bitmap, skip bool) error {
	if err := c.opt.step(StepSourceRound); err != nil {
		return err
	}
	r := c.begin(toSend.count())
	for page := toSend.next(0); page >= 0; {
		if err := c.belt.room(ctx); err != nil {
			return err
		}
		list := c.list[:0]
		for most := c.belt.batch(); page >= 0 && len(list) < most; page = toSend.next(page + 1) {
			if skip && c.vm.Dirty(page) {
				r.Skipped++
				continue
			}
			list = append(list, uint32(page))
		}
		if err := c.send(ctx, list); err != nil {
			return err
		}
	}
	return c.end(ctx)
}

// held tells whether VMs that are to arrive together still keep this one.
func (c *copier) held() bool {
	if c.opt.HoldPause == nil {
		return false
	}
	select {
	case <-c.opt.HoldPause:
		return false
	default:
		return true
	}
}

// hold says that this VM waits for others, and lets some time pass.
func (c *copier) hold(ctx context.Context, d time.Duration) error {
	if err := c.opt.step(StepSourceHeld); err != nil {
		return err
	}
	return c.belt.idle(ctx, d)
}

// release waits until the others are ready.
func (c *copier) release(ctx context.Context) error {
	if !c.held() {
		return nil
	}
	if err := c.opt.step(StepSourceHeld); err != nil {
		return err
	}
	select {
	case <-c.opt.HoldPause:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the VMs that are to arrive together with this one: %w", context.Cause(ctx))
	}
}

// holdTime is how long a VM that is held back waits where it has nothing to send.
const holdTime = 20 * time.Millisecond

// live sends rounds while the VM runs, until the algorithm says that the last
// one is to come. What it leaves in toSend has been dirtied and not sent.
func (c *copier) live(ctx context.Context, toSend bitmap) error {
	send := c.xenLive
	if c.plan.own {
		send = c.ownLive
	}
	if err := send(ctx, toSend); err != nil {
		return err
	}
	return c.slow.pay(ctx, c.belt)
}

// xenLive is live by the published rules.
func (c *copier) xenLive(ctx context.Context, toSend bitmap) error {
	rules := rules{plan: c.plan, pages: c.pages}
	for last := c.plan.live == 0; !last; {
		if err := c.round(ctx, toSend, c.plan.skip); err != nil {
			return err
		}
		r := c.current()
		last = rules.afterRound(r.Sent, r.Skipped)
		clear(toSend)
		r.Dirtied = c.collect(toSend)
		if !last {
			last = rules.beforeRound(r.Sent, r.Dirtied)
		}
		if last && c.held() {
			last = false
			d := time.Duration(0)
			if r.Sent == 0 {
				d = holdTime
			}
			if err := c.hold(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}
