// Package fabric makes a lab's State real on the kernel it runs on: network
// namespaces, veth links, bridges, routes and link impairments.
//
// Division of labour: State (state.go) says what should be there and Compile
// (compile.go) makes the plain part of it from a topo.Plan. object.go takes a
// State apart into comparable objects, observe.go sees which of them the
// kernel holds, diff.go tells what is left to do and apply.go does it, through
// namespaces (netns.go, mounts.go), queueing disciplines (impair.go,
// classes.go) and batched netlink (package rtnl), by system calls that cost
// little (package direct). A record under /run/vpclab (record.go) lets a
// successor go on or clean up (gc.go, graves.go, process.go) after a crash.
// inspect.go, macs.go and capture.go are for looking; announce.go tells a LAN
// where a machine is; wound.go breaks things and mends them. Nothing outside
// this folder calls setns or locks a thread.
package fabric

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strconv"
	"sync"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/direct"
	"github.com/vpclab/vpclab/emu/warm"
)

// Fabric is one lab on this kernel. Its methods may be called from several
// goroutines.
type Fabric struct {
	lab  string
	sink event.Sink

	change  sync.Mutex // held by whoever changes the lab
	lock    *os.File   // nil after Destroy or Close
	witness *witness   // of its end; nil likewise

	// mu keeps readers off the fields below while they change; who holds
	// change reads them without it.
	mu    sync.Mutex
	nodes map[string]*node
	state State
	// recorded are the nodes that the record's last settled state names.
	recorded map[string]uint64
	// applied is state taken apart; suspect says that an Apply failed or was
	// killed since, so that only the kernel knows. unseen says that a
	// predecessor's lab was not looked at yet, so that we do not know what
	// numbers its devices and classes have.
	applied objects
	suspect bool
	unseen  bool
	// wounds are what faults have done to the lab, by number; see wound.go.
	wounds wounds
}

// heapPerNode is about what Apply allocates for a new node, in bytes.
const heapPerNode = 20 << 10

// Option changes how Apply works.
type Option int

// Trust makes Apply compare with what it did itself, without reading the
// kernel: for callers that know nobody else touched the lab.
const Trust Option = 1

// ErrNoNode is the error for a node that is not there.
var ErrNoNode = errors.New("no such node in the running lab")

// ErrClosed is the error of a Fabric that was destroyed or closed.
var ErrClosed = errors.New("the lab was destroyed or let go")

// New takes hold of a lab: it locks it against other processes (HeldError
// names the holder). What a predecessor left is adopted, processes in it
// apart, which are killed: the next Apply goes on from there.
func New(lab string, sink event.Sink) (*Fabric, error) {
	if sink == nil {
		sink = func(event.Event) {}
	}
	lock, err := acquire(lab)
	if err != nil {
		return nil, err
	}
	f := &Fabric{lab: lab, sink: sink, lock: lock, nodes: map[string]*node{}, applied: objects{}}
	if f.witness, err = newWitness(""); err == nil {
		err = errors.Join(prepareNetnsDir(), f.adopt())
	}
	if err != nil {
		f.drop()
		lock.Close()
		return nil, fmt.Errorf("lab %s: %w", lab, err)
	}
	return f, nil
}

// adopt takes over what the record of a predecessor names.
func (f *Fabric) adopt() error {
	r, err := readRecord(f.lab)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.state, f.applied, f.suspect, f.unseen = r.State, flatten(r.State), !r.settled, true
	f.recorded = r.Nodes
	inodes := map[uint64]bool{}
	err = onThread(func() error {
		var errs []error
		for _, name := range sortedKeys(r.Nodes) {
			path := nsPath(f.lab, name)
			switch inode := inodeOf(path); {
			case inode != 0 && (r.Nodes[name] == 0 || r.Nodes[name] == inode):
				n, err := adoptNS(f.lab, name)
				if err == nil {
					f.nodes[name] = n
					inodes[inode] = true
				}
				errs = append(errs, err)
			case inode == 0:
				errs = append(errs, unmountNS(path)) // a name without a namespace
			}
		}
		return errors.Join(errs...)
	})
	return errors.Join(err, killInside(inodes))
}

// Current is the State that the last Apply reached.
func (f *Fabric) Current() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Plan says what Apply would do. It changes nothing.
func (f *Fabric) Plan(want State) (Changes, error) {
	f.change.Lock()
	defer f.change.Unlock()
	if f.lock == nil {
		return nil, fmt.Errorf("plan lab %s: %w", f.lab, ErrClosed)
	}
	if err := want.check(); err != nil {
		return nil, fmt.Errorf("plan lab %s: %w", f.lab, err)
	}
	goal := f.goal(want)
	have, _, err := f.observe(goal)
	if err != nil {
		return nil, err
	}
	_, changes := diff(have, goal)
	return changes, nil
}

// Apply converges the kernel to want and says what it changed. An error names
// every object that failed; the others are done, and the next Apply goes on
// from what the kernel then holds. A second Apply of the same State changes
// nothing.
func (f *Fabric) Apply(ctx context.Context, want State, opts ...Option) (Changes, error) {
	f.change.Lock()
	defer f.change.Unlock()
	if f.lock == nil {
		return nil, fmt.Errorf("apply to lab %s: %w", f.lab, ErrClosed)
	}
	if err := want.check(); err != nil {
		return nil, fmt.Errorf("apply to lab %s: %w", f.lab, err)
	}
	defer warm.Heap(max(0, len(want.Nodes)-len(f.nodes)) * heapPerNode)()
	goal := f.goal(want)
	have, stale, err := f.have(goal, opts)
	if err != nil {
		return nil, err
	}
	work, changes := diff(have, goal)
	if changes.Empty() && len(stale) == 0 && !f.suspect {
		f.reached(want, goal)
		return changes, nil
	}
	if err := f.intend(want); err != nil {
		return nil, err
	}
	f.suspect = true
	before := f.names()
	err = onThread(func() error { return f.carryOut(ctx, work, stale) })
	if err != nil {
		return changes, fmt.Errorf("lab %s: %w", f.lab, err)
	}
	f.reached(want, goal)
	f.tell(before, len(changes))
	return changes, f.settle()
}

// have is what is there, as Apply's options have it.
func (f *Fabric) have(goal objects, opts []Option) (objects, []staleDevice, error) {
	for _, o := range opts {
		if o == Trust && !f.suspect && !f.unseen {
			return f.applied, nil, nil
		}
	}
	return f.observe(goal)
}

func (f *Fabric) reached(want State, goal objects) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.applied, f.suspect = want, goal, false
}

func (f *Fabric) names() map[string]bool {
	out := make(map[string]bool, len(f.nodes))
	for name := range f.nodes {
		out[name] = true
	}
	return out
}

// tell puts an Apply on the time line, with one look at the clock for all.
func (f *Fabric) tell(before map[string]bool, changes int) {
	e := event.New("", "fabric.applied", map[string]string{"changes": strconv.Itoa(changes), "nodes": strconv.Itoa(len(f.nodes))})
	node := func(name, kind string) {
		f.sink(event.Event{T: e.T, Wall: e.Wall, Node: name, Kind: kind})
	}
	for _, name := range sortedKeys(f.nodes) {
		if !before[name] {
			node(name, "node.up")
		}
	}
	for _, name := range sortedKeys(before) {
		if f.nodes[name] == nil {
			node(name, "node.down")
		}
	}
	f.sink(e)
}

// intend records the namespaces that will be there, before the first is made.
// None of the new names may exist: what has the name later is then ours.
func (f *Fabric) intend(want State) error {
	r := f.record()
	maps.DeleteFunc(r.Nodes, func(name string, inode uint64) bool { return f.recorded[name] == inode })
	var taken map[string]bool // looked at when the first is needed
	for name := range want.Nodes {
		if f.nodes[name] != nil {
			continue
		}
		if taken == nil {
			var err error
			if taken, err = namesTaken(); err != nil {
				return fmt.Errorf("lab %s: %w", f.lab, err)
			}
		}
		if taken[nsName(f.lab, name)] {
			return fmt.Errorf("lab %s: node %s: namespace %s exists and is not this lab's; remove it with `ip netns del %[3]s`",
				f.lab, name, nsName(f.lab, name))
		}
		r.Nodes[name] = 0
	}
	return r.intend()
}

// settle records what was reached.
func (f *Fabric) settle() error {
	r := f.record()
	r.State = f.state
	if err := r.settle(); err != nil {
		return err
	}
	f.recorded = r.Nodes
	return nil
}

// record is the nodes that there are.
func (f *Fabric) record() record {
	r := record{Lab: f.lab, PID: os.Getpid(), Nodes: make(map[string]uint64, len(f.nodes))}
	for name, n := range f.nodes {
		r.Nodes[name] = n.inode
	}
	return r
}

// Destroy removes everything of the lab and lets go of it; it returns when the
// kernel's objects are gone. Processes that still run in nodes are killed.
func (f *Fabric) Destroy(ctx context.Context) error {
	f.change.Lock()
	defer f.change.Unlock()
	if f.lock == nil {
		return nil
	}
	// The record tells all to whoever comes after a crash: what the last Apply
	// reached, or meant to.
	g, err := f.graves()
	if err != nil {
		return fmt.Errorf("destroy lab %s: %w", f.lab, err)
	}
	f.drop()
	if err := g.empty(ctx); err != nil {
		return fmt.Errorf("destroy lab %s: %w", f.lab, err)
	}
	lock := f.lock
	f.lock = nil
	f.sink(event.New("", "fabric.destroyed", map[string]string{"nodes": strconv.Itoa(len(g.paths))}))
	return forget(f.lab, lock)
}

// graves are the namespaces of the lab and the names that lead to them.
func (f *Fabric) graves() (g graves, err error) {
	if g.mounts, err = readMounts(); err != nil {
		return g, err
	}
	g.witness, f.witness = f.witness, nil
	for _, name := range sortedKeys(f.nodes) {
		n, path := f.nodes[name], nsPath(f.lab, name)
		inode, mounted := g.mounts.inodes[nsName(f.lab, name)]
		switch {
		case inode == n.inode:
			g.add(path, inode)
		case !mounted: // the name was taken away, and left an empty file at most
			g.kill(n.inode)
			if isEmptyFile(path) {
				g.add(path, 0)
			}
		default: // somebody else's by now
			g.kill(n.inode)
		}
	}
	return g, nil
}

// Close lets go of the lab and leaves it in the kernel for a successor.
func (f *Fabric) Close() error {
	f.change.Lock()
	defer f.change.Unlock()
	if f.lock == nil {
		return nil
	}
	empty := len(f.nodes) == 0
	f.drop()
	lock := f.lock
	f.lock = nil
	if empty {
		return forget(f.lab, lock)
	}
	return lock.Close()
}

// setNode adds a node, or with nil forgets it.
func (f *Fabric) setNode(name string, n *node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n == nil {
		delete(f.nodes, name)
	} else {
		f.nodes[name] = n
	}
}

// drop closes the namespaces.
func (f *Fabric) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	fds := make([]int, 0, 2*len(f.nodes))
	for _, n := range f.nodes {
		fds = n.release(fds)
	}
	closeAll(fds)
	if f.witness != nil {
		f.witness.close()
		f.witness = nil
	}
	f.nodes, f.applied, f.state, f.wounds = map[string]*node{}, objects{}, State{}, nil
}

// NSPath is where the node's namespace is mounted: `ip netns exec` takes its
// base name.
func (f *Fabric) NSPath(node string) string { return nsPath(f.lab, node) }

// Do runs fn in the node's network namespace. Goroutines that fn starts are
// not in it; sockets that fn opens stay in it.
func (f *Fabric) Do(node string, fn func() error) error {
	fd, err := f.handle(node)
	if err != nil {
		return err
	}
	defer direct.Close(fd)
	return within(fd, fn)
}

// handle is a descriptor of its own of a node's namespace; see open.
func (f *Fabric) handle(node string) (fd int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[node]
	if n == nil {
		return -1, fmt.Errorf("node %s: %w", node, ErrNoNode)
	}
	if fd, err = direct.Duplicate(int(n.ns)); err != nil {
		return -1, fmt.Errorf("node %s: open namespace: %w", node, err)
	}
	return fd, nil
}

// open is a handle of its own on a node's namespace, so that it stays while
// the caller works, whatever Apply does meanwhile.
func (f *Fabric) open(node string) (ns.NetNS, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[node]
	if n == nil {
		return nil, fmt.Errorf("node %s: %w", node, ErrNoNode)
	}
	h, err := ns.GetNS("/proc/self/fd/" + strconv.Itoa(int(n.ns)))
	if err != nil {
		return nil, fmt.Errorf("node %s: open namespace: %w", node, err)
	}
	return h, nil
}

// StartIn starts a process in the namespace that is mounted at path, as NSPath
// gives it: for processes of the lab that are no part of this one and have no
// Fabric.
func StartIn(path string, cmd *exec.Cmd) error {
	h, err := ns.GetNS(path)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer h.Close()
	return h.Do(func(ns.NetNS) error { return cmd.Start() })
}

// Start starts a process in the node's network namespace. The caller waits
// for it; Destroy kills it if it still runs then.
func (f *Fabric) Start(node string, cmd *exec.Cmd) error {
	return f.Do(node, cmd.Start)
}
