package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/vmm"
)

// nativeTargetSteps are those of migrate.Steps that its target comes to.
var nativeTargetSteps = []string{
	migrate.StepTargetBegin, migrate.StepTargetReady, migrate.StepTargetFinal, migrate.StepTargetKept, migrate.StepTargetCommitted,
	migrate.StepTargetStarted, migrate.StepTargetAll, migrate.StepTargetOver,
}

// nativeTarget is a place for the VM at the host that it comes to, in a QEMU that
// waits for it.
type nativeTarget struct {
	*target
	session wire.Session
	monitor *qmp.Client
	stream  stream
	in      *vmm.Incoming
	served  bool // its disk is, to the source
	mine    bool // the VM is this host's
	rep     migrate.Report
}

// receiveNative is target.receive where QEMU moves the memory.
func (t *target) receiveNative(ctx context.Context) (*migrate.Report, error) {
	n := &nativeTarget{target: t, stream: t.stream(), rep: migrate.Report{Algorithm: t.Move.Memory.Algorithm, Began: event.Now()}}
	defer n.close()
	var err error
	if t.Rest {
		err = n.restNative(ctx)
	} else if err = n.open(ctx); err == nil {
		err = n.run(ctx)
	}
	if err != nil && !errors.Is(err, migrate.ErrKilled) {
		err = n.fail(ctx, err)
	}
	return &n.rep, shut(n.stream, err)
}

func (n *nativeTarget) close() {
	if n.in != nil {
		n.in.Close()
	}
	if n.session != nil {
		_ = n.session.Close() // what had to arrive was flushed
	}
	if n.monitor != nil {
		n.monitor.Close()
	}
}

// open waits for the source, and has QEMU wait for its stream.
func (n *nativeTarget) open(ctx context.Context) (err error) {
	if n.session, err = n.listener.Accept(ctx, channelNative); err != nil {
		return err
	}
	if err := n.step(migrate.StepTargetBegin); err != nil {
		return err
	}
	answers, cancel := guestAnswers(ctx)
	defer cancel()
	if n.monitor, err = n.vm.steer(answers); err != nil {
		return err
	}
	if err := vmm.Configure(answers, n.monitor, n.mode(), n.QEMU, false); err != nil {
		return err
	}
	uri, err := n.stream.incoming(answers)
	if err != nil {
		return err
	}
	if n.in, err = vmm.Listen(answers, n.monitor, n.mode(), uri); err != nil {
		return err
	}
	where, err := n.stream.reached(answers, n.in)
	if err != nil {
		return err
	}
	disk, err := n.serveDisk(answers)
	if err != nil {
		return err
	}
	if err := n.step(migrate.StepTargetReady); err != nil {
		return err
	}
	return say(ctx, n.session, nativeReady, nativeMessage{Where: where, Disk: disk})
}

// run takes the VM when it has come and stands at the source for good.
func (n *nativeTarget) run(ctx context.Context) error {
	var final nativeMessage
	both, loading := errgroup.WithContext(ctx)
	both.Go(func() error { return n.in.Loaded(loading) })
	both.Go(func() (err error) {
		final, err = hear(loading, n.session, nativeFinal)
		return err
	})
	if err := both.Wait(); err != nil {
		return err
	}
	if err := n.step(migrate.StepTargetFinal); err != nil {
		return err
	}
	if err := n.unserveDisk(ctx); err != nil {
		return err
	}
	proving, err := n.prove(final)
	if err != nil {
		return err
	}
	if err := n.vm.keep(kept{}); err != nil { // the rest is in QEMU, which outlives this process
		return fmt.Errorf("keep the VM for a successor: %w", err)
	}
	if err := n.step(migrate.StepTargetKept); err != nil {
		return err
	}
	// The source may give up waiting and Abort meanwhile; then this fails.
	_, at, err := migrate.RecoverTarget(context.WithoutCancel(ctx), n, n, nil, nil)
	if err != nil {
		return err
	}
	n.rep.ResumedAt, n.rep.Done = at, at
	if err := n.step(migrate.StepTargetStarted); err != nil {
		return err
	}
	if err := say(ctx, n.session, nativeRunning, nativeMessage{At: at, Stood: proving}); err != nil {
		return err
	}
	return n.finish(ctx)
}

// prove compares memory and disk with the source's, where both stand for it, and
// tells how long that took.
func (n *nativeTarget) prove(final nativeMessage) (time.Duration, error) {
	if final.Hash == "" {
		return 0, nil
	}
	began := event.Now()
	if ours := hashOf(n.memory); ours != final.Hash {
		return 0, fmt.Errorf("the memory that came is not the source's: its hash is %.16s…, and the source's %.16s…", ours, final.Hash)
	}
	ours, err := n.hashOfDisk()
	if err == nil && ours != final.Disk {
		err = fmt.Errorf("the disk that came is not the source's: its hash is %.16s…, and the source's %.16s…", ours, final.Disk)
	}
	n.rep.Hash, n.rep.DiskHash = final.Hash, final.Disk
	return event.Now().Sub(began), err
}

// Start implements migrate.Target: the VM is this host's, and goes on in the QEMU
// that has loaded it.
func (n *nativeTarget) Start(ctx context.Context, _ []byte) (event.Mono, error) {
	n.mine = true
	if err := n.step(migrate.StepTargetCommitted); err != nil {
		return 0, err
	}
	opt := n.agent.adopting()
	opt.Incoming = true
	at, err := n.remote.Adopt(ctx, n.vm.folder(), nil, opt)
	if err == nil {
		n.vm.adopted(n.Spec, n.NetNS)
	}
	return at, err
}

// finish waits until nothing is missing.
func (n *nativeTarget) finish(ctx context.Context) error {
	if vmm.Late(n.mode()) {
		if err := n.in.Whole(ctx); err != nil {
			return err
		}
		n.rep.Done = event.Now()
		stood, err := n.in.Blocktime(ctx)
		if err != nil {
			return err
		}
		if err := n.step(migrate.StepTargetAll); err != nil {
			return err
		}
		if err := say(ctx, n.session, nativeWhole, nativeMessage{At: n.rep.Done, Stood: stood}); err != nil {
			return err
		}
	}
	if err := n.session.Flush(ctx); err != nil {
		return fmt.Errorf("wait for the source to hear that the VM runs: %w", err)
	}
	return n.step(migrate.StepTargetOver)
}

// fail tells the source, and ends a QEMU that nothing will come of.
func (n *nativeTarget) fail(ctx context.Context, cause error) error {
	quick, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if n.session != nil {
		_ = say(quick, n.session, nativeFailed, nativeMessage{Why: cause.Error()}) // else its session ends
		_ = n.session.Flush(quick)
	}
	switch {
	case n.mine:
		return fmt.Errorf("%w: %w", migrate.ErrCommitted, cause)
	case errors.Is(cause, migrate.ErrInDoubt):
		return cause // it may be this host's, and a successor would start it
	case n.monitor != nil:
		ending, cancel := guestAnswers(context.WithoutCancel(ctx)) // a source that is gone has taken the time to be told
		defer cancel()
		_ = n.monitor.Execute(ending, "quit", nil, nil) // it may be what has ended
	}
	return cause
}
