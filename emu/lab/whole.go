package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

// BrokenError says what of a lab is not as its plan has it.
type BrokenError struct{ What []string }

func (e *BrokenError) Error() string {
	const shown = 8
	s := fmt.Sprintf("%d things are not as they should be: ", len(e.What))
	if len(e.What) > shown {
		return s + strings.Join(e.What[:shown], "; ") + fmt.Sprintf("; and %d more", len(e.What)-shown)
	}
	return s + strings.Join(e.What, "; ")
}

// lookAgain is the most that passes between two looks of Whole; it looks sooner
// when something happens in the lab, but no sooner than lookLeast.
const (
	lookAgain = time.Second
	lookLeast = 50 * time.Millisecond
)

// Whole waits until the lab is whole again, ctx's deadline at the longest, and
// looks at least once: no fault is in force, the kernel holds what the plan says
// with paths over all links, all processes run, all BGP and BFD sessions are
// there and all VPN routes programmed. The error wraps a *BrokenError that names what is
// not so. A caller whose deadline has passed already gets one look.
func (l *Lab) Whole(ctx context.Context) error {
	sub := l.bus.subscribe(0) // it only wakes: what is lost may be lost
	defer sub.Close()
	for {
		began := time.Now()
		var broken *BrokenError
		if err := l.hurt(); err == nil || ctx.Err() != nil {
			err = l.Broken(context.WithoutCancel(ctx))
			if !errors.As(err, &broken) { // whole, or it could not be found out
				return err
			}
			if ctx.Err() != nil {
				return fmt.Errorf("lab %s is not whole: %w: %w", l.Name(), context.Cause(ctx), err)
			}
		}
		// What mends itself needs the processor: looking has a fifth of it at most.
		rest := time.NewTimer(max(lookLeast, 4*time.Since(began)))
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			continue
		}
		again := time.NewTimer(lookAgain)
		select {
		case <-again.C:
		case <-sub.C:
		case <-ctx.Done():
		}
		again.Stop()
		drain(sub)
	}
}

// drain takes the events that have come meanwhile.
func drain(sub *Subscription) {
	for {
		select {
		case <-sub.C:
		default:
			return
		}
	}
}

// hurt tells what is known to be wrong without a look into any kernel, which
// costs a tenth of a second; nil: nothing.
func (l *Lab) hurt() error {
	l.mu.Lock()
	plan, pending, f := l.plan, l.pending, l.fabric
	l.mu.Unlock()
	if plan == nil || f == nil {
		return nil // Broken says so
	}
	var what []string
	if pending != nil || len(l.Faults()) > 0 {
		what = append(what, "a change or a fault")
	}
	what = append(what, l.detours(plan)...)
	what = append(what, l.controlFaults(plan)...)
	if len(what) > 0 {
		return &BrokenError{what}
	}
	return nil
}

// Broken looks once: it is nil, or a *BrokenError with all that is not as Whole
// has it; another error says that it could not be found out.
func (l *Lab) Broken(ctx context.Context) error {
	l.mu.Lock()
	plan, pending, f := l.plan, l.pending, l.fabric
	l.mu.Unlock()
	if plan == nil || f == nil {
		return fmt.Errorf("lab %s: %w", l.Name(), ErrNotBuilt)
	}
	var what []string
	if pending != nil {
		what = append(what, "a change of the lab is under way, or has failed")
	}
	for _, i := range l.Faults() {
		what = append(what, "fault "+i.Fault.String())
	}
	if len(what) > 0 {
		return &BrokenError{what}
	}
	what = append(what, l.detours(plan)...)
	kernel, err := l.kernelFaults(f, plan)
	if err != nil {
		return err
	}
	what = append(what, kernel...)
	what = append(what, l.controlFaults(plan)...)
	sleeping, err := l.asleep(ctx)
	if err != nil {
		sleeping = []string{"reflexes: " + err.Error()}
	}
	what = append(what, sleeping...)
	what = append(what, l.hostFaults(ctx, plan)...)
	if len(what) > 0 {
		return &BrokenError{what}
	}
	return nil
}

// detours are links that paths avoid, which the plan as it was asked for has.
func (l *Lab) detours(plan *topo.Plan) (what []string) {
	for _, k := range plan.Links {
		if k.Lost {
			what = append(what, "paths avoid "+k.A.Node+"--"+k.B.Node)
		}
	}
	return what
}

// kernelFaults are the differences between what the kernel holds and what the
// plan says.
func (l *Lab) kernelFaults(f *fabric.Fabric, plan *topo.Plan) (what []string, err error) {
	now, err := l.relocate(plan)
	if err != nil {
		return nil, err
	}
	state := fabric.Compile(now)
	mpls.Compile(now, &state)
	changes, err := f.Plan(state)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		what = append(what, "kernel: "+c.String())
	}
	return what, nil
}

// controlFaults are speakers that do not run, sessions that are not there, and
// routes that are not programmed or left over.
func (l *Lab) controlFaults(plan *topo.Plan) (what []string) {
	seated := l.seated(plan)
	for node, cfg := range bgp.Configs(seated) {
		if _, runs := l.speakers.get(node); !runs {
			what = append(what, "speaker of "+node)
			continue
		}
		var expected []string
		for _, n := range cfg.Neighbors {
			expected = append(expected, n.String())
		}
		for _, s := range l.sessions.of(node, expected) {
			if s.State != "established" {
				what = append(what, fmt.Sprintf("BGP session of %s with %s", node, s.Neighbor))
			}
		}
	}
	for _, m := range l.repairs.all() {
		if _, runs := l.repairs.get(m.node); !runs {
			what = append(what, "repair process of "+m.node)
		}
	}
	missing, extra := l.routes.differ(expectedRoutes(seated))
	for _, k := range missing {
		what = append(what, "VPN route not programmed: "+k.String())
	}
	for _, k := range extra {
		what = append(what, "VPN route left over: "+k.String())
	}
	slices.Sort(what)
	return what
}

// hostFaults are agents and guests that do not run.
func (l *Lab) hostFaults(ctx context.Context, plan *topo.Plan) (what []string) {
	if l.hypers.record() == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, signIn, fmt.Errorf("no answer within %v", signIn))
	defer cancel()
	for _, n := range plan.Guests() {
		vm := l.pairs.seatOf(n.Name)
		if l.hypers.running(l.hostOf(plan, vm)) == nil {
			what = append(what, "agent of "+l.hostOf(plan, vm))
		}
		if s, err := l.hypers.status(ctx, vm); err != nil || !s.Running {
			what = append(what, "guest "+vm)
		}
	}
	return what
}

// hostOf is the host at which a VM, or a seat of one, is.
func (l *Lab) hostOf(plan *topo.Plan, vm string) string {
	if host := l.hypers.record().of(vm); host != "" {
		return host
	}
	if n, ok := plan.Node(vm); ok {
		return n.Host
	}
	return ""
}
