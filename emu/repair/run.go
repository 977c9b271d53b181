package repair

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/bfd"
	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/liveness"
)

// Run is the body of the hidden verb `vpclab repair`: one router's reflexes, in
// the router's network namespace, told what to do over the control channel that
// the lab gave it. It returns nil after a stop, and when the lab is gone.
//
// It is one loop: it sleeps until a packet of BFD's is due, a session expires, a
// link changes or somebody says something, does all that is to be done, and
// sleeps again. While sessions are up that is three system calls an interval.
func Run(ctx context.Context) error {
	fd, err := child.Descriptor("repair process")
	if err != nil {
		return err
	}
	p, err := open(fd)
	if err != nil {
		return err
	}
	defer p.close()
	p.ranks.begin()
	for {
		done, err := p.turn()
		if err != nil || done {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// process is the state of one router's.
type process struct {
	channel  *channel
	kernel   *kernel
	group    *bfd.Group
	server   *liveness.Server
	reflexes *reflexes

	ranks      ranks
	configured bool
	done       bool
	now        event.Mono      // when the last turn began
	up         map[string]bool // interfaces, as last seen
	fds        []unix.PollFd
}

func open(control int) (p *process, err error) {
	p = &process{channel: &channel{fd: control}, reflexes: newReflexes(), up: map[string]bool{}}
	if p.kernel, err = openKernel(); err != nil {
		return nil, err
	}
	if p.group, err = bfd.Open(); err == nil {
		p.server, err = liveness.Listen()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *process) close() {
	if p.kernel != nil {
		_ = p.kernel.close()
	}
	if p.group != nil {
		_ = p.group.Close()
	}
	if p.server != nil {
		p.server.Close()
	}
}

// Times of the loop.
const (
	// late is by how much this process may be too late without the machine having
	// been busy or stood still.
	late = 2 * time.Millisecond
	// soon is how long what arrives may lie before it is read, while sessions
	// come up.
	soon = 5 * time.Millisecond
	// short is a sleep after which others of this program have nothing to do
	// that cannot wait.
	short = 100 * time.Millisecond
)

// Places of descriptors in the list of what is waited for.
const (
	atControl = iota
	atLinks
	atServer
	atBFD
)

// turn is one sleep and what follows it.
func (p *process) turn() (done bool, err error) {
	next := max(p.group.Next(), p.now)
	if err := p.sleep(next); err != nil {
		return false, err
	}
	now := event.Now()
	if now.Sub(next) > late {
		p.group.Excuse(p.now, next, now)
	}
	p.now = now
	if p.fds[atLinks].Revents != 0 {
		if err := p.links(now); err != nil {
			return false, err
		}
	}
	told, err := p.group.Step(now)
	if err != nil {
		return false, err
	}
	for _, t := range told {
		p.reflexes.session(t)
	}
	p.act()
	p.chronicle(told)
	if p.fds[atServer].Revents != 0 {
		if err := p.server.Accept(); err != nil {
			return false, err
		}
	}
	if p.fds[atControl].Revents&unix.POLLOUT != 0 {
		p.channel.flush()
	}
	if p.fds[atControl].Revents&^unix.POLLOUT != 0 {
		err = p.serve()
	}
	if p.fds[atControl].Revents|p.fds[atServer].Revents != 0 {
		p.ranks.assert()
	}
	return p.done || p.channel.gone, err
}

// sleep returns when it is time, or something has come.
func (p *process) sleep(until event.Mono) error {
	p.fds = append(p.fds[:0],
		unix.PollFd{Fd: int32(p.channel.fd), Events: unix.POLLIN},
		unix.PollFd{Fd: int32(p.kernel.poll.File()), Events: unix.POLLIN},
		unix.PollFd{Fd: int32(p.server.File()), Events: unix.POLLIN})
	if len(p.channel.out) > 0 {
		p.fds[atControl].Events |= unix.POLLOUT
	}
	wait := max(0, until.Sub(event.Now()))
	if wait > soon && p.group.Hurry() {
		for _, fd := range p.group.Files() {
			p.fds = append(p.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	timeout := unix.NsecToTimespec(int64(wait))
	var err error
	if wait > short {
		_, err = unix.Ppoll(p.fds, &timeout, nil)
		p.ranks.assert()
	} else {
		// Not by way of Go's scheduler: package fabric/direct says why.
		_, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(p.fds))), uintptr(len(p.fds)), uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
		if errno != 0 {
			err = errno
		}
	}
	if errors.Is(err, unix.EINTR) {
		for i := range p.fds {
			p.fds[i].Revents = 0
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for packets: %w", err)
	}
	return nil
}

// links takes what interfaces did.
func (p *process) links(now event.Mono) error {
	before := p.kernel.index
	was := map[string]int{}
	for _, l := range p.reflexes.cfg.Links {
		was[l.Dev] = before[l.Dev]
	}
	events, err := p.kernel.events()
	if err != nil {
		return err
	}
	p.see(events, now)
	for dev, index := range was {
		if p.kernel.index[dev] != index && p.kernel.index[dev] != 0 { // another has its name
			return p.sessions(now)
		}
	}
	return nil
}

// see takes the state of interfaces, and puts back what the kernel forgot when
// one was down.
func (p *process) see(events []rtnl.LinkEvent, now event.Mono) {
	for _, e := range events {
		up := e.Up && !e.Gone
		p.reflexes.device(e.Name, e.Carrier && !e.Gone, now)
		if was, known := p.up[e.Name]; known && !was && up {
			p.restore(e.Name, p.reflexes.forgotten(e.Name))
		}
		p.up[e.Name] = up
	}
}

// restore puts routes back that the kernel forgot.
func (p *process) restore(dev string, routes []fabric.Route) {
	if len(routes) == 0 {
		return
	}
	if err := p.kernel.write(nil, routes); err != nil {
		p.refused(err)
	}
	p.emit(event.New(p.node(), "repair.forgotten", map[string]string{"dev": dev, "routes": strconv.Itoa(len(routes))}))
}

func (p *process) node() string { return p.reflexes.cfg.Node }

// act draws the consequences of what was found out: routes first, then whoever
// waits for a word.
func (p *process) act() {
	news := p.reflexes.take()
	if len(news) == 0 {
		return
	}
	changes := p.reflexes.changes()
	err := p.kernel.write(changes, nil)
	done := event.Now()
	p.server.Tell(news...)
	for _, s := range news {
		kind := "liveness.down"
		if s.Up {
			kind = "liveness.up"
		}
		attr := map[string]string{"peer": s.Peer.String(), "by": s.By}
		if s.Dev != "" {
			attr["dev"] = s.Dev
		}
		e := event.New(p.node(), kind, attr)
		e.T = s.At
		p.emit(e)
	}
	p.report(changes, news[0].At, done)
	if err != nil {
		p.refused(err)
	}
}

// report says which routes were written.
func (p *process) report(changes []change, since, done event.Mono) {
	type what struct {
		dev      string
		prepared bool
	}
	count := map[what]int{}
	for _, c := range changes {
		count[what{c.Dev, c.prepared}]++
	}
	for w, n := range count {
		kind := "repair.restored"
		if w.prepared {
			kind = "repair.switched"
		}
		e := event.New(p.node(), kind, map[string]string{"dev": w.dev, "routes": strconv.Itoa(n), "took": done.Sub(since).String()})
		e.T = done
		p.emit(e)
	}
}

// chronicle tells the lab which sessions came up and which went down, whatever
// that says of the way to the peer.
func (p *process) chronicle(told []bfd.Told) {
	for _, t := range told {
		kind := "bfd.up"
		switch {
		case t.To == bfd.Up:
		case t.From == bfd.Up:
			kind = "bfd.down"
		default:
			continue
		}
		attr := map[string]string{"peer": t.Peer.Remote.String()}
		if t.Peer.Dev != "" {
			attr["dev"] = t.Peer.Dev
		}
		if t.Diag != bfd.NoDiag {
			attr["diag"] = t.Diag.String()
		}
		e := event.New(p.node(), kind, attr)
		e.T = t.At
		p.emit(e)
	}
}

func (p *process) refused(err error) {
	p.emit(event.New(p.node(), "repair.refused", map[string]string{"error": err.Error()}))
}

func (p *process) emit(e event.Event) { p.channel.put(reply{Event: &e}) }

// serve answers what the lab asks.
func (p *process) serve() error {
	lines, err := p.channel.take()
	if err != nil {
		return err
	}
	for _, line := range lines {
		r, err := decodeRequest(line)
		if err != nil && r.ID == 0 {
			return err // nobody to answer
		}
		answer := reply{ID: r.ID}
		switch {
		case err != nil:
		case r.Op == opConfigure:
			err = p.configure(*r.Config)
		case r.Op == opStatus:
			answer.Status = p.status()
		case r.Op == opStop:
			err = p.stop()
			p.done = true
		}
		if err != nil {
			answer.Error = err.Error()
		}
		p.channel.put(answer)
	}
	return nil
}

// configure takes over a Config. The first one that a process is given may find
// what a predecessor left.
func (p *process) configure(cfg Config) error {
	now := event.Now()
	events, err := p.kernel.devices()
	if err != nil {
		return err
	}
	first := !p.configured
	t := tables{}
	if first || len(p.reflexes.switched)+len(p.reflexes.left) > 0 {
		if t, err = p.kernel.tables(); err != nil {
			return err
		}
	}
	orphans := p.reflexes.orphans(cfg, t)
	p.reflexes.configure(cfg, now)
	p.configured = true
	p.see(events, now)
	var missing []fabric.Route
	if first {
		for _, r := range p.reflexes.recognize(t, now) {
			if p.up[r.Dev] {
				missing = append(missing, r)
			}
		}
	}
	if err := p.sessions(now); err != nil {
		return err
	}
	changes := append(orphans, p.reflexes.assert()...)
	if err := p.kernel.write(changes, missing); err != nil {
		p.refused(err) // the kernel takes no route by an interface that is down, and more may be than anybody knows
	}
	p.server.Forget(func(liveness.State) bool { return true })
	p.reflexes.take() // it is among all
	p.server.Tell(p.reflexes.all(now)...)
	p.report(changes, now, event.Now())
	return nil
}

// sessions has BFD hold those of the Config.
func (p *process) sessions(now event.Mono) error {
	cfg := &p.reflexes.cfg
	wanted := map[bfd.Peer]bfd.Timers{}
	if t := cfg.BFD; t.Interval > 0 {
		for _, l := range cfg.Links {
			index := p.kernel.index[l.Dev]
			if index == 0 {
				return fmt.Errorf("session with %v: there is no interface %s", l.Peer, l.Dev)
			}
			wanted[bfd.Peer{Dev: l.Dev, Index: index, Local: l.Local, Remote: l.Peer}] = bfd.Timers{Interval: t.Interval, Multiplier: uint8(t.Multiplier)}
		}
	}
	if t := cfg.MultihopBFD; t.Interval > 0 {
		for _, m := range cfg.Multihop {
			wanted[bfd.Peer{Local: m.Local, Remote: m.Peer}] = bfd.Timers{Interval: t.Interval, Multiplier: uint8(t.Multiplier)}
		}
	}
	return p.group.Set(wanted, now)
}

// stop ends all sessions on purpose and puts the router's own routes back.
func (p *process) stop() error {
	return errors.Join(p.group.Set(nil, event.Now()), p.kernel.write(p.reflexes.undo(), nil))
}

func (p *process) status() *Status {
	now := event.Now()
	s := &Status{Switched: len(p.reflexes.switched), Protect: len(p.reflexes.cfg.Protect)}
	for _, l := range p.reflexes.cfg.Links {
		k := p.reflexes.links[l.Dev]
		s.Links = append(s.Links, LinkStatus{Dev: l.Dev, Peer: l.Peer, Alive: !k.dead, Carrier: k.carrier})
	}
	for _, i := range p.group.Sessions() {
		s.Sessions = append(s.Sessions, sessionOf(i, now))
	}
	return s
}
