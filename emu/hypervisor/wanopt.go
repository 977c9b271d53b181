package hypervisor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/wire"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/wanopt"
)

// channelPair is the first of the sessions of a pair of package wanopt: one for
// each connection of QEMU's.
const channelPair = 16

const (
	// pairFile is the socket, in the VM's folder, between a QEMU and its end.
	pairFile = "stream"
	// pairBandwidth (bytes/s) is QEMU's bound where the user gives none: its stream
	// is larger than what crosses the link, and the pair keeps to that.
	pairBandwidth = 512 << 20
)

// paired tells whether a migration by QEMU goes by way of a pair.
func (m *Move) paired() bool {
	_, _, ok := wanopt.ByVariant(m.Memory.Algorithm)
	return ok
}

// pairedAt is where the agent meets its QEMU.
func (m *moving) pairedAt() string { return filepath.Join(m.vm.folder(), pairFile) }

// odd tells the lab what a user should know of a stream.
func (m *moving) odd(what string) {
	m.agent.tell(m.VM, "migration.odd", map[string]string{"what": what})
}

// nearEnd is the pair's end at the host that the VM leaves.
type nearEnd struct {
	*moving
	listener net.Listener
	stop     context.CancelFunc
	done     chan struct{}
	stats    *wanopt.Stats
	err      error
	smart    *wanopt.SmartStop // nil: QEMU decides
	watched  chan *wanopt.StopReport
}

func (p *nearEnd) incoming(context.Context) (string, error) { return "", errTargets }

func (p *nearEnd) reached(context.Context, *vmm.Incoming) (string, error) { return "", errTargets }

var errTargets = fmt.Errorf("only the target waits for a stream")

func (p *nearEnd) outgoing(ctx context.Context, where string, monitor *qmp.Client, opt *vmm.OutgoingOptions) (string, error) {
	to, err := netip.ParseAddrPort(where)
	if err != nil {
		return "", fmt.Errorf("the pair's far end: %w", err)
	}
	at, err := wanopt.ParseAddress("unix:" + p.pairedAt())
	if err != nil {
		return "", err
	}
	if p.listener, err = at.Listen(ctx); err != nil {
		return "", err
	}
	encoders, smart, _ := wanopt.ByVariant(p.Memory.Algorithm)
	if len(p.Memory.Encoders) > 0 {
		encoders = p.Memory.Encoders
	}
	if opt.MaxBandwidth == 0 {
		opt.MaxBandwidth = pairBandwidth
	}
	begun := make(chan struct{})
	near := wanopt.Near{
		Encoders: encoders, Block: p.Memory.Block, Cache: p.Memory.Cache, Warn: p.odd,
		Open: func(ctx context.Context, channel uint8) (wire.Session, error) {
			return p.dial(ctx, to, channelPair+channel)
		},
		Begun: func() { close(begun) },
	}
	serving, stop := context.WithCancel(p.ctx)
	p.stop, p.done, p.watched = stop, make(chan struct{}), make(chan *wanopt.StopReport, 1)
	if smart {
		p.smart = wanopt.NewSmartStop(monitor, wanopt.Rule{Window: p.Memory.Window}, opt.DowntimeLimit)
		opt.DowntimeLimit = wanopt.HeldLimit
	}
	go p.watch(serving, begun, opt.Hold)
	go func() {
		defer close(p.done)
		p.stats, p.err = near.Serve(serving, p.listener)
	}()
	return at.String(), nil
}

// watch has Smart Stop watch the migration once it has begun and nobody holds it.
func (p *nearEnd) watch(ctx context.Context, begun, hold <-chan struct{}) {
	if p.smart == nil {
		p.watched <- nil
		return
	}
	if hold == nil {
		hold = begun
	}
	for _, c := range []<-chan struct{}{begun, hold} {
		select {
		case <-c:
		case <-ctx.Done():
			p.watched <- nil
			return
		}
	}
	rep, err := p.smart.Watch(ctx)
	if err != nil {
		p.odd(err.Error())
	}
	p.watched <- rep
}

// pairIn is how long an end may take to come to its own end when QEMU has.
const pairIn = 20 * time.Second

func (p *nearEnd) close() error {
	if p.done == nil {
		return nil
	}
	timer := time.NewTimer(pairIn)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	}
	p.stop()
	<-p.done
	_ = p.listener.Close() // nobody is to come any more
	rep := <-p.watched
	if p.smart != nil {
		p.smart.Forget()
	}
	if p.stats != nil {
		p.stats.Stop = rep
	}
	p.outcome.Stream = p.stats
	return p.err
}

func (p *nearEnd) tell(rep *migrate.Report) {
	st := p.stats
	if st == nil {
		return
	}
	rep.BytesOut, rep.BytesBack, rep.Reconnects = st.WANOut, st.WANIn, st.Reconnects
	rep.CPU.Source = st.CPU
	for _, u := range st.Encoders {
		rep.Encoders = append(rep.Encoders, migrate.EncoderUse{Name: u.Name, Units: u.Units, In: u.In, Out: u.Out, CPU: u.CPU, False: u.False})
	}
	if st.Theirs != nil {
		rep.CPU.Target = st.Theirs.CPU
		for _, u := range st.Theirs.Encoders {
			rep.Encoders = append(rep.Encoders, migrate.EncoderUse{Name: u.Name + " (target)", CPU: u.CPU})
		}
	}
}

// farEnd is the pair's end at the host that the VM comes to.
type farEnd struct {
	*target
	stop context.CancelFunc
	done chan struct{}
	err  error
}

func (p *farEnd) incoming(context.Context) (string, error) { return "unix:" + p.pairedAt(), nil }

func (p *farEnd) reached(_ context.Context, _ *vmm.Incoming) (string, error) {
	at, err := wanopt.ParseAddress("unix:" + p.pairedAt())
	if err != nil {
		return "", err
	}
	far := wanopt.Far{
		Accept: func(ctx context.Context, channel uint8) (wire.Session, error) {
			return p.listener.Accept(ctx, channelPair+channel)
		},
		Dial: at.Dial, MostMemory: 2 * p.Spec.Memory, Warn: p.odd,
	}
	serving, stop := context.WithCancel(p.ctx)
	p.stop, p.done = stop, make(chan struct{})
	go func() {
		defer close(p.done)
		_, p.err = far.Serve(serving)
	}()
	return p.listener.Addr().String(), nil
}

func (p *farEnd) outgoing(context.Context, string, *qmp.Client, *vmm.OutgoingOptions) (string, error) {
	return "", fmt.Errorf("only the source sends")
}

func (p *farEnd) close() error {
	if p.done == nil {
		return nil
	}
	timer := time.NewTimer(pairIn)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	}
	p.stop()
	<-p.done
	return p.err
}

func (p *farEnd) tell(*migrate.Report) {}
