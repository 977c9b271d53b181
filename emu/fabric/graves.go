package fabric

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// goneDeadline is how long the kernel may take to end namespaces: it does so
// in the background, some thousand a second.
const goneDeadline = 60 * time.Second

// graves are namespaces that are to end together.
type graves struct {
	mounts mounts // as they are before; zero: not looked at
	paths  []string
	inodes map[uint64]bool // those that exist
	last   string          // path of one that exists
	// witness, if there is one already, is let go after all others.
	witness *witness
}

// add takes a name, and the namespace that it leads to; 0: none.
func (g *graves) add(path string, inode uint64) {
	g.paths = append(g.paths, path)
	if inode == 0 {
		return
	}
	g.kill(inode)
	g.last = path
}

// kill takes the processes of a namespace, named or not.
func (g *graves) kill(inode uint64) {
	if g.inodes == nil {
		g.inodes = map[uint64]bool{}
	}
	g.inodes[inode] = true
}

// empty kills what runs in the namespaces, takes their names away and waits
// until the kernel has taken their devices down.
func (g *graves) empty(ctx context.Context) error {
	errs := []error{killInside(g.inodes)}
	held, err := g.hurry()
	errs = append(errs, err)
	var witnesses []*witness
	watch := func(path string) {
		w, err := newWitness(path)
		if err != nil {
			errs = append(errs, err)
			return
		}
		witnesses = append(witnesses, w)
	}
	for _, path := range held {
		watch(path)
	}
	switch { // the one for all others is the last
	case g.witness != nil:
		witnesses = append(witnesses, g.witness)
	case g.last != "":
		watch(g.last)
	}
	errs = append(errs, g.unname())
	for _, w := range witnesses {
		w.letGo()
	}
	for _, w := range witnesses {
		errs = append(errs, w.wait(ctx))
	}
	return errors.Join(errs...)
}

// unname takes the names away: all together where nobody else has one.
func (g *graves) unname() error {
	if g.mounts.only(g.paths) {
		return renewNetnsDir()
	}
	var errs []error
	for _, path := range g.paths {
		errs = append(errs, unmountNS(path))
	}
	return errors.Join(errs...)
}

// hurry finds the namespaces that connections hold whose processes ended with
// something to deliver. The kernel would try for minutes, though the way to
// the other side ends with us: let it try once more (tcp(7),
// tcp_orphan_retries). As a rule there is no such connection on the machine,
// and that costs one look.
func (g *graves) hurry() (held []string, err error) {
	err = onThread(func() error {
		if orphans, err := sockstat("orphan"); err != nil || orphans == 0 {
			return err
		}
		for _, path := range g.paths {
			if inodeOf(path) == 0 {
				continue
			}
			ns, err := netns.GetFromPath(path)
			if err != nil {
				return err
			}
			err = netns.Set(ns)
			_ = ns.Close()
			if err != nil {
				return err
			}
			if n, err := sockstat("inuse"); err != nil || n == 0 {
				continue
			}
			if err := writeSysctl("net.ipv4.tcp_orphan_retries", "1"); err != nil {
				return err
			}
			if path != g.last || g.witness != nil {
				held = append(held, path)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for connections in namespaces that end: %w", err)
	}
	return held, nil
}

// sockstat reads one of TCP's numbers in the namespace that the thread is in;
// "orphan" counts those of all namespaces.
func sockstat(what string) (int, error) {
	text, err := direct.ReadFile("/proc/thread-self/net/sockstat")
	if err != nil {
		return 0, err
	}
	_, tcp, _ := strings.Cut(string(text), "\nTCP:")
	_, value, ok := strings.Cut(tcp, " "+what+" ")
	if !ok {
		return 0, fmt.Errorf("no %q of TCP in /proc/net/sockstat", what)
	}
	return strconv.Atoi(strings.Fields(value)[0])
}

// witness sees the end of a namespace: a veth with one end in there and the
// other in a namespace of its own that nobody else has. Dead namespaces are
// taken apart in batches, in the order in which they died, so when the near
// end is gone, all that died before are; those that something holds have
// witnesses of their own.
//
// A netlink socket lets its namespace go some time after it was closed, with
// the kernel's RCU, and each node has one. The last to die must be held by such
// a socket too, or it would overtake them.
type witness struct {
	conn *rtnl.Conn // the near namespace lives as long as this
	far  *rtnl.Conn // and the far one as long as this, see letGo
}

const (
	nearName    = "near"
	witnessName = "vpclab-witness" // the far end's, which no node uses
)

// newWitness watches the namespace at path. Without one it makes a namespace
// that has nothing to do but to end after all others.
func newWitness(path string) (*witness, error) {
	var w witness
	err := onThread(func() (err error) {
		if err := enter(path); err != nil {
			return err
		}
		if w.far, err = rtnl.Dial(); err != nil {
			return err
		}
		if err := enter(""); err != nil {
			return err
		}
		if w.conn, err = rtnl.Dial(); err != nil {
			return err
		}
		near, err := w.conn.Namespace()
		if err != nil {
			return err
		}
		defer direct.Close(near)
		var b rtnl.Batch
		b.Veth(rtnl.Veth{Link: rtnl.Link{Name: witnessName}, Peer: rtnl.Link{Name: nearName}, PeerNS: near})
		if err := w.far.DoDirect(&b); err != nil {
			return err
		}
		return w.conn.Watch(unix.RTNLGRP_LINK)
	})
	if err != nil {
		w.close()
		return nil, fmt.Errorf("watch the namespaces end: %w", err)
	}
	return &w, nil
}

// enter moves the thread, one of onThread's, into the namespace at path, or
// into a new one.
func enter(path string) error {
	if path == "" {
		return direct.Unshare(unix.CLONE_NEWNET)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Set(ns)
}

// letGo lets the far namespace end: after the names of all were taken away and
// their sockets closed, so that it is the last.
func (w *witness) letGo() {
	if w.far != nil {
		w.far.Close()
	}
}

// close gives the witness up.
func (w *witness) close() {
	w.letGo()
	if w.conn != nil {
		w.conn.Close()
	}
}

// wait returns when the far namespace is gone.
func (w *witness) wait(ctx context.Context) error {
	defer w.close()
	ctx, cancel := context.WithTimeoutCause(ctx, goneDeadline, fmt.Errorf("namespaces still there after %v: a process or socket holds one", goneDeadline))
	defer cancel()
	err := w.conn.Await(ctx, func(typ uint16, link rtnl.LinkInfo) bool {
		return typ == unix.RTM_DELLINK && link.Name == nearName
	})
	if err != nil {
		return fmt.Errorf("wait for the kernel to end namespaces: %w", err)
	}
	return nil
}
