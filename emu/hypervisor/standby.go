package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/lease"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/replicate"
)

// replicaFolder is where replication has its logs, in the VM's folder.
const replicaFolder = "replica"

// place is where a seat receives: its memory and disk. It is a replicate.Place.
type place struct {
	folder string
	memory *guest.Memory // nil: in the modes that have none
	disk   *guest.Disk   // nil: the VM has none
}

// Memory implements replicate.Place.
func (p *place) Memory() []byte {
	if p.memory == nil {
		return nil
	}
	return p.memory.Bytes()
}

// Disk implements replicate.Place.
func (p *place) Disk() replicate.Image {
	if p.disk == nil {
		return nil
	}
	return image{p.disk}
}

// Folder implements replicate.Place.
func (p *place) Folder() string { return p.folder }

func (p *place) close() {
	if p.memory != nil {
		p.memory.Close() // what fails leaves a mapping behind, and no more
	}
	if p.disk != nil {
		p.disk.Close()
	}
}

// image is a disk as replication writes it: blocks that are received are no
// writes of the guest's.
type image struct{ disk *guest.Disk }

func (i image) ReadAt(b []byte, off int64) (int, error)  { return i.disk.File().ReadAt(b, off) }
func (i image) WriteAt(b []byte, off int64) (int, error) { return i.disk.File().WriteAt(b, off) }
func (i image) Size() int64                              { return i.disk.Size() }

// remembers tells whether the mode replicates memory.
func (p *Pair) remembers() bool {
	return p.Replicate.Mode == replicate.Async || p.Replicate.Mode == replicate.Checkpoint
}

// openPlace has memory and disk, those that are here where they fit. Logs about
// others than those are of no use.
func (s *seat) openPlace() (_ *place, err error) {
	p := &place{folder: s.file(replicaFolder)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	fresh := false
	if s.remembers() {
		p.memory, err = guest.OpenMemory(s.vm.folder())
		if err == nil && int64(len(p.memory.Bytes())) != s.Spec.Memory {
			err = errors.Join(p.memory.Close(), os.ErrNotExist)
		}
		if errors.Is(err, os.ErrNotExist) {
			fresh = true
			p.memory, err = guest.CreateMemory(s.vm.folder(), s.Spec.Memory, true)
		} else if err == nil {
			err = p.memory.Populate() // or each page costs a fault when it comes
		}
		if err != nil {
			return nil, err
		}
	}
	if s.Spec.Disk > 0 {
		p.disk, err = guest.OpenDisk(s.vm.folder())
		if errors.Is(err, os.ErrNotExist) {
			fresh = true
			p.disk, err = guest.CreateDisk(s.vm.folder(), s.Spec.Disk)
		}
		if err != nil {
			return nil, err
		}
	}
	if fresh {
		if err = os.RemoveAll(p.folder); err != nil {
			return nil, err
		}
	}
	return p, os.MkdirAll(p.folder, 0o700)
}

// inherited is what a former process of this agent received.
func (s *seat) inherited() (lease.Have, error) {
	if _, err := os.Stat(s.file(replicaFolder)); errors.Is(err, os.ErrNotExist) {
		return lease.Disk, nil
	}
	p, err := s.openPlace()
	if err != nil {
		return lease.Nothing, err
	}
	defer p.close()
	end, err := replicate.NewStandby(p, s.Replicate, replicate.Tell{})
	if err != nil {
		return lease.Nothing, err
	}
	defer end.Close()
	if end.Held().Synced {
		return lease.Image, nil
	}
	return lease.Disk, nil
}

// standBy is a seat without the VM: it receives, with a guest that waits to go
// on in its place, until the lease says that it has the VM.
func (s *seat) standBy(ctx context.Context) error {
	s.taken = false
	s.mu.Lock()
	s.synced = false
	s.mu.Unlock()
	if _, err := os.Stat(s.file(activeFile)); err == nil { // it ran here, and what was received before that is no more
		if err := errors.Join(s.endGuest(ctx), os.RemoveAll(s.file(replicaFolder)), s.note(false)); err != nil {
			return err
		}
	}
	life, cancel := s.within(ctx, false)
	defer cancel()
	p, err := s.openPlace()
	if err != nil {
		return err
	}
	defer p.close()
	end, err := replicate.NewStandby(p, s.Replicate, s.standbyTells())
	if err != nil {
		return err
	}
	defer end.Close()
	s.mu.Lock()
	s.replica = end.Report
	s.mu.Unlock()
	has := lease.Nothing
	if end.Held().Synced {
		has = lease.Image
	} else if s.left == lease.Disk && !s.begun {
		has = lease.Disk // the VM may begin here
	}
	s.lease.Has(has)
	// Before anything comes: on one processor its start would keep signs of life
	// waiting.
	if err := s.await(life); err != nil && life.Err() == nil {
		return fmt.Errorf("have a guest wait: %w", err)
	}
	l, err := wire.ListenTCP(ctx, s.Here)
	if err != nil {
		return err
	}
	listener := wire.Listen(l, s.wire())
	defer listener.Close()
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	beside.Go(func() { s.reportSuspicion(life, end) })
	err = end.Run(life, func(ctx context.Context) (wire.Session, error) { return listener.Accept(ctx, 0) })
	if !errors.Is(context.Cause(life), errRole) {
		s.lease.Has(lease.Nothing)
		return err
	}
	state, _ := s.known()
	if state.From != lease.Image || !holds(state.Role) {
		return nil
	}
	s.tell("pair.granted", map[string]string{"gen": gen(state)})
	s.vm.turn.Lock()
	defer s.vm.turn.Unlock()
	life, cancelTake := s.within(ctx, true)
	defer cancelTake()
	return s.takeOverFrom(life, state, end)
}

// standbyTells are what replication tells a standby.
func (s *seat) standbyTells() replicate.Tell {
	return replicate.Tell{
		Synced: func(uint64) {
			s.fail(nil)
			s.lease.Has(lease.Image)
		},
		Forgets: func() { s.lease.Has(lease.Nothing) },
		Silent: func(since event.Mono) {
			s.suspect("replication", since)
		},
		Heard: func(event.Mono) { s.trust() },
	}
}

// suspect tells that nothing is heard of the active, once.
func (s *seat) suspect(by string, since event.Mono) {
	s.mu.Lock()
	already := s.suspects
	s.suspects = true
	s.mu.Unlock()
	if state, _ := s.known(); already || state.Role != lease.Standby && state.Role != lease.Taking {
		return
	}
	s.tell("pair.suspected", map[string]string{"by": by, "since": ran(since)})
}

func (s *seat) trust() {
	s.mu.Lock()
	s.suspects = false
	s.mu.Unlock()
}

// reportSuspicion tells when the standby asks for the lease.
func (s *seat) reportSuspicion(ctx context.Context, end *replicate.StandbyEnd) {
	for {
		if _, err := s.until(ctx, func(state lease.State) bool { return state.Role == lease.Taking }); err != nil {
			return
		}
		if !end.Held().Final { // else it was handed over
			s.suspect("lease", 0)
		}
		if _, err := s.until(ctx, func(state lease.State) bool { return state.Role != lease.Taking }); err != nil {
			return
		}
		s.trust()
	}
}

// await has a guest wait in the seat's namespace, with the memory mapped ahead.
func (s *seat) await(ctx context.Context) error {
	s.vm.turn.Lock()
	defer s.vm.turn.Unlock()
	return s.wake(ctx)
}

// wake is await for whoever has the turn. A guest that waits already is left
// as it is.
func (s *seat) wake(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startWithin, fmt.Errorf("waited %v for the guest to answer", startWithin))
	defer cancel()
	if err := s.vm.kill(ctx); err != nil { // of a former process, on another leash
		return err
	}
	if err := s.newLeash(); err != nil {
		return err
	}
	if err := s.vm.launch(ctx, guest.Config{Spec: s.Spec, Socket: s.vm.socket(), Leash: s.vm.folder()}); err != nil {
		return err
	}
	r, err := guest.Connect(ctx, s.vm.socket(), "")
	if err != nil {
		return err
	}
	defer r.Close()
	if s.remembers() {
		return r.Prepare(ctx, s.vm.folder(), s.agent.adopting())
	}
	if err := s.freshMemory(); err != nil {
		return err
	}
	opt := s.agent.adopting()
	opt.Boot = true
	return r.Prepare(ctx, s.vm.folder(), opt)
}

// freshMemory is for a guest that will boot.
func (s *seat) freshMemory() error {
	m, err := guest.CreateMemory(s.vm.folder(), s.Spec.Memory, true)
	if err != nil {
		return err
	}
	return m.Close()
}

// takeOver goes on with what is held here, where nothing of an earlier attempt is
// left. The caller has the turn.
func (s *seat) takeOver(ctx context.Context, state lease.State) error {
	p, err := s.openPlace()
	if err != nil {
		return err
	}
	defer p.close()
	end, err := replicate.NewStandby(p, s.Replicate, replicate.Tell{})
	if err != nil {
		return err
	}
	defer end.Close()
	return s.takeOverFrom(ctx, state, end)
}

// takeOverFrom has the guest that waits go on in the VM's place: with memory, disk
// and, where the mode has them, connections of the last whole epoch. Until it has
// done so the port is down: a kernel that did not have a connection yet would
// refuse what comes for it.
func (s *seat) takeOverFrom(ctx context.Context, state lease.State, end *replicate.StandbyEnd) error {
	held, err := end.Activate(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := guestAnswers(ctx)
	defer cancel()
	r, err := guest.Connect(ctx, s.vm.socket(), "")
	if err != nil { // the one that waited has ended
		if err := s.wake(ctx); err != nil {
			return err
		}
		if r, err = guest.Connect(ctx, s.vm.socket(), ""); err != nil {
			return err
		}
	}
	defer r.Close()
	if err := s.note(true); err != nil {
		return err
	}
	var at event.Mono
	if s.remembers() {
		at, err = r.Adopt(ctx, s.vm.folder(), held.State, s.agent.adopting())
	} else {
		at, err = r.Boot(ctx, s.vm.folder())
	}
	if err != nil {
		return err
	}
	s.taken = true
	s.tellAt(at, "pair.activated", map[string]string{
		"gen": gen(state), "from": fromName(lease.Image), "epoch": strconv.FormatUint(held.Epoch, 10), "held_at": ran(held.At),
	})
	if err := s.redirect(ctx); err != nil {
		return err
	}
	if err := r.Resend(ctx); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(s.vm.folder(), replicaFolder))
}
