package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/vmm"
)

// nativeSourceSteps are those of migrate.Steps that its source comes to, beside
// those of QEMU's own part.
var nativeSourceSteps = []string{
	migrate.StepSourceReady, migrate.StepDiskSettle, migrate.StepSourceRunning, migrate.StepSourceOver, migrate.StepSourceAbort, migrate.StepSourceResume,
}

// nativeSource is the VM at the host that it leaves.
type nativeSource struct {
	*source
	session wire.Session
	monitor *qmp.Client
	stream  stream
	out     *vmm.Outgoing // nil: it was not begun
	telling sync.WaitGroup
	final   bool          // the target was told, or may have been
	stood   time.Duration // at missing pages

	mirror   *vmm.DiskMirror // nil: the disk does not move
	mirrored *sockets
	diskHash string
}

// sendNative is moving.send where QEMU moves the memory.
func (m *moving) sendNative(ctx context.Context, to netip.AddrPort) (*migrate.Report, error) {
	s := &nativeSource{source: &source{moving: m}, stream: m.stream()}
	defer s.close()
	if err := s.open(ctx, to); err != nil {
		return nil, err
	}
	rep := &migrate.Report{Algorithm: m.Memory.Algorithm, Began: event.Now()}
	if m.Rest {
		err := s.restNative(ctx, rep)
		return rep, errors.Join(err, s.stream.close())
	}
	err := s.run(ctx, rep)
	if err != nil && !errors.Is(err, migrate.ErrKilled) {
		err = s.back(ctx, err)
	}
	s.account(rep)
	s.endMirror()
	err = shut(s.stream, err)
	s.stream.tell(rep)
	return rep, err
}

// open reaches the guest, its QEMU and the other host.
func (s *nativeSource) open(ctx context.Context, to netip.AddrPort) (err error) {
	answers, cancel := guestAnswers(ctx)
	defer cancel()
	if s.Rest {
		s.openRest(answers)
		s.session, err = s.dial(ctx, to, channelNative)
		return err
	}
	if s.remote, err = guest.Connect(answers, s.vm.socket(), s.vm.folder()); err != nil {
		return err
	}
	if s.monitor, err = s.vm.steer(answers); err != nil {
		return err
	}
	if s.provesAtPause() {
		if s.memory, err = guest.OpenMemory(s.vm.folder()); err != nil {
			return err
		}
		if err := s.memory.Populate(); err != nil { // or each page costs a fault while the VM stands
			return err
		}
	}
	s.session, err = s.dial(ctx, to, channelNative)
	return err
}

func (s *nativeSource) close() {
	if s.out != nil {
		s.out.Close()
	}
	if s.session != nil {
		_ = s.session.Close() // what had to arrive was flushed
	}
	if s.monitor != nil {
		s.monitor.Close()
	}
	s.telling.Wait()
	s.source.close()
}

// run has QEMU send the VM, and hands it over.
func (s *nativeSource) run(ctx context.Context, rep *migrate.Report) error {
	ready, err := hear(ctx, s.session, nativeReady)
	if err != nil {
		return err
	}
	if err := s.step(migrate.StepSourceReady); err != nil {
		return err
	}
	if err := s.mirrorDisk(ctx, ready.Disk); err != nil {
		return err
	}
	opt := s.outgoing()
	uri, err := s.stream.outgoing(ctx, ready.Where, s.monitor, &opt)
	if err != nil {
		return err
	}
	if err := vmm.Configure(ctx, s.monitor, opt.Mode, opt.Parameters, opt.Switch != nil); err != nil {
		return err
	}
	// From here on it is not restarted if it dies: that depends on whose it will
	// be, and QEMU does not ask before it stops it.
	s.vm.disown()
	if s.out, err = vmm.Begin(ctx, s.monitor, uri, opt); err != nil {
		return err
	}
	return s.handOver(ctx, rep)
}

// outgoing are the options of QEMU's part.
func (s *nativeSource) outgoing() vmm.OutgoingOptions {
	o := vmm.OutgoingOptions{Mode: s.mode(), Parameters: s.QEMU, Limit: s.Within, Step: s.step, Switch: s.diskSwitch()}
	if s.Move.Hold {
		o.Hold = s.held()
	}
	o.Paused = func(at event.Mono) {
		s.telling.Go(func() { s.Paused(context.WithoutCancel(s.ctx), at) })
	}
	return o
}

// handOver sees QEMU to its end, and the target to run the VM.
func (s *nativeSource) handOver(ctx context.Context, rep *migrate.Report) error {
	ctx, cancel := context.WithCancelCause(ctx)
	heard := make(chan nativeMessage, 1)
	var hearing sync.WaitGroup
	defer hearing.Wait()
	defer cancel(nil)
	hearing.Go(func() { // it may say at any time that it will not be
		m, err := hear(ctx, s.session, nativeRunning)
		if err != nil {
			cancel(err)
			return
		}
		heard <- m
	})
	if err := s.out.Run(ctx); err != nil {
		return err
	}
	hash := ""
	if s.provesAtPause() {
		began := event.Now()
		hash = hashOf(s.memory)
		var err error
		if s.diskHash, err = s.hashOfDisk(); err != nil {
			return err
		}
		rep.Verify.InPause, rep.Verify.Pages = event.Now().Sub(began), s.memory.Pages()
	}
	s.final = true
	if err := say(ctx, s.session, nativeFinal, nativeMessage{Hash: hash, Disk: s.diskHash}); err != nil {
		return err
	}
	var running nativeMessage
	select {
	case running = <-heard:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	rep.Hash, rep.DiskHash, rep.ResumedAt, rep.Done = hash, s.diskHash, running.At, running.At
	rep.Verify.InPause += running.Stood
	if err := s.step(migrate.StepSourceRunning); err != nil {
		return err
	}
	return s.finish(ctx, rep)
}

// finish is for when the VM runs at the target.
func (s *nativeSource) finish(ctx context.Context, rep *migrate.Report) error {
	if vmm.Late(s.mode()) {
		if err := s.out.Finish(ctx); err != nil {
			return err
		}
		whole, err := hear(ctx, s.session, nativeWhole)
		if err != nil {
			return err
		}
		rep.Done, s.stood = whole.At, whole.Stood
	}
	s.account(rep)
	s.endMirror()
	// Its memory is the target's, and nobody lets it go on any more.
	_ = s.monitor.Execute(ctx, "quit", nil, nil) // it may have gone already
	return s.step(migrate.StepSourceOver)
}

// account takes over what QEMU has measured, while it is there.
func (s *nativeSource) account(rep *migrate.Report) {
	if s.out == nil || s.outcome.QEMU != nil {
		return
	}
	ctx, cancel := guestAnswers(context.WithoutCancel(s.ctx))
	defer cancel()
	measured, stats := s.out.Report(ctx)
	rep.Began, rep.PausedAt, rep.Rounds, rep.BytesOut, rep.Faults = measured.Began, measured.PausedAt, measured.Rounds, measured.BytesOut, measured.Faults
	stats.Blocktime = s.stood
	s.outcome.QEMU = stats
}

// back takes the VM back after an error before the target was known to have it.
func (s *nativeSource) back(ctx context.Context, cause error) error {
	ctx = context.WithoutCancel(ctx) // it may be what has ended
	s.telling.Wait()                 // the network must not be moved after it has been moved back
	if err := s.step(migrate.StepSourceAbort); err != nil {
		return err
	}
	err := migrate.RecoverSource(ctx, s, s)
	switch {
	case err == nil:
		quick, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_ = say(quick, s.session, nativeFailed, nativeMessage{Why: cause.Error()}) // else its session ends
		return cause
	case errors.Is(err, migrate.ErrCommitted):
		return fmt.Errorf("%w: %w", migrate.ErrCommitted, cause)
	case errors.Is(err, migrate.ErrInDoubt) && !s.final:
		// The target was never told that it may go on: it cannot commit.
		return errors.Join(cause, err, s.Resume(ctx))
	}
	return errors.Join(cause, err)
}

// Resume implements migrate.Source.
func (s *nativeSource) Resume(ctx context.Context) error {
	if err := s.step(migrate.StepSourceResume); err != nil {
		return err
	}
	s.endMirror()
	return s.source.Resume(ctx)
}
