package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/vmm"
)

// A migration by QEMU itself that is carried on (Move.Rest): the VM is the
// target's, and an agent has died or the hosts have lost each other. QEMUs outlive
// agents. The VM goes on at the target if it does not yet; and where its pages
// follow it, either the two QEMUs have gone on by themselves, or they get another
// connection:
//
//	target   the VM runs                  running{at}    ─▶
//	         QEMU has lost its connection ready{where}   ─▶   as often as that is so
//	         nothing is missing           whole{at}      ─▶

// restNative is the target's end.
func (n *nativeTarget) restNative(ctx context.Context) (err error) {
	n.mine = true
	if n.session, err = n.listener.Accept(ctx, channelNative); err != nil {
		return err
	}
	answers, cancel := guestAnswers(ctx)
	defer cancel()
	if n.monitor, err = n.vm.steer(answers); err != nil {
		return fmt.Errorf("%w: %w", ErrAnew, err) // what it was to go on in is gone
	}
	if n.rep.ResumedAt, err = n.goOn(answers); err != nil {
		return err
	}
	n.rep.Done = n.rep.ResumedAt
	if err := say(ctx, n.session, nativeRunning, nativeMessage{At: n.rep.ResumedAt}); err != nil {
		return err
	}
	if vmm.Late(n.mode()) {
		if err := n.fetch(ctx); err != nil {
			return err
		}
	}
	return n.finish(ctx)
}

// goOn has the VM run here, if it does not; at is 0 where it did.
func (n *nativeTarget) goOn(ctx context.Context) (at event.Mono, err error) {
	s, err := n.remote.Status(ctx)
	if err != nil {
		return 0, err
	}
	k, err := n.vm.unkept()
	if err != nil {
		return 0, err
	}
	switch {
	case s.Folder == n.vm.folder() && k == nil:
		return 0, ErrAnew // see vm.start
	case s.Folder == n.vm.folder():
		n.vm.adopted(n.Spec, n.NetNS)
		return 0, nil
	case k == nil:
		return 0, errors.New("the VM has not come here")
	}
	_, at, err = migrate.RecoverTarget(ctx, n, n, nil, nil)
	return at, err
}

// fetch waits until no page is missing, over as many connections as that takes.
func (n *nativeTarget) fetch(ctx context.Context) error {
	n.in = vmm.Watch(n.monitor, n.mode())
	for {
		err := n.in.Whole(ctx)
		if !errors.Is(err, vmm.ErrLineLost) {
			return err
		}
		uri, err := n.stream.incoming(ctx)
		if err != nil {
			return err
		}
		if err := n.in.Recover(ctx, uri); err != nil {
			return err
		}
		where, err := n.stream.reached(ctx, n.in)
		if err != nil {
			return err
		}
		if err := say(ctx, n.session, nativeReady, nativeMessage{Where: where}); err != nil {
			return err
		}
		if err := n.in.Continued(ctx); err != nil {
			return err
		}
	}
}

// restNative is the source's end.
func (s *nativeSource) restNative(ctx context.Context, rep *migrate.Report) error {
	for {
		kind, m, err := hearAny(ctx, s.session) // it takes as long as the WAN does
		if err == nil && kind == nativeReady {
			err = s.again(ctx, m.Where)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", migrate.ErrCommitted, err)
		}
		switch {
		case kind == nativeRunning:
			rep.ResumedAt, rep.Done = m.At, m.At
		case kind == nativeWhole:
			rep.Done, s.stood = m.At, m.Stood
		}
		if kind == nativeWhole || kind == nativeRunning && !vmm.Late(s.mode()) {
			break
		}
	}
	if s.monitor != nil {
		_ = s.monitor.Execute(ctx, "quit", nil, nil) // it may have gone already
	}
	return nil
}

// again has QEMU send what is missing by another connection.
func (s *nativeSource) again(ctx context.Context, where string) (err error) {
	ctx, cancel := guestAnswers(ctx)
	defer cancel()
	if s.monitor == nil {
		return errors.New("the QEMU that has the missing pages is gone")
	}
	uri, err := s.stream.outgoing(ctx, where, s.monitor, &vmm.OutgoingOptions{Step: s.step})
	if err != nil {
		return err
	}
	return vmm.Continue(ctx, s.monitor, uri)
}

// openRest reaches the other host, and the QEMU that the VM has left, if that is
// there.
func (s *nativeSource) openRest(ctx context.Context) {
	if m, err := s.vm.steer(ctx); err == nil {
		s.monitor = m
	}
}

// endNativeIn bounds how long a QEMU is asked to give up what an agent that died had
// begun. One that sends the last of a VM to a QEMU that does not read answers nothing
// until that has ended, which Resume sees to.
const endNativeIn = 5 * time.Second

// endNative ends what an earlier agent had QEMU do by itself with a VM that stays
// here: it would stop the VM some time later, and stand.
func (v *vm) endNative(ctx context.Context) error {
	if v.spec.Kind != guest.KindQEMU {
		return nil
	}
	quick, cancel := context.WithTimeoutCause(ctx, endNativeIn, fmt.Errorf("waited %v for QEMU to give its migration up", endNativeIn))
	defer cancel()
	m, err := v.steer(quick)
	if err == nil {
		defer m.Close()
		if err = vmm.CancelOutgoing(quick, m); err == nil {
			vmm.DropMirror(quick, m)
		}
	}
	if err != nil {
		v.agent.tell(v.name, "vm.not-freed", map[string]string{"error": err.Error()})
	}
	return context.Cause(ctx)
}
