// Package fabric makes a lab's State real on the kernel it runs on: network
// namespaces, veth links, bridges, routes and link impairments.
//
// Division of labour: State (state.go) says what should be there and Compile
// (compile.go) makes the plain part of it from a topo.Plan; object.go takes a
// State apart into objects and diff.go compares them; a Fabric carries the
// difference out (apply.go) through namespaces (netns.go) and batched netlink
// (package rtnl), after it has looked what the kernel really holds
// (verify.go). A record under /run/vpclab (record.go) lets GC find everything
// after a crash. Nothing outside this folder calls setns or locks a thread.
package fabric

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/vpclab/vpclab/emu/event"
)

// Fabric is one lab on this kernel. Its methods may be called from several
// goroutines.
type Fabric struct {
	lab  string
	sink event.Sink

	mu      sync.Mutex // everything below
	lock    *os.File
	nodes   map[string]*node
	state   State
	applied objects
	suspect bool // an Apply failed: believe the kernel, not applied
}

// Option changes how Apply works.
type Option int

// Trust makes Apply compare with what it did itself, without reading the
// kernel: for callers that know nobody else touched the lab.
const Trust Option = 1

// New takes hold of a lab: it locks it against other processes (HeldError
// names the holder) and removes what a killed predecessor left.
func New(lab string, sink event.Sink) (*Fabric, error) {
	if sink == nil {
		sink = func(event.Event) {}
	}
	lock, err := acquire(lab)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(prepareNetnsDir(), sweep(lab)); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lab %s: %w", lab, err)
	}
	if lock, err = relock(lab, lock); err != nil {
		return nil, err
	}
	return &Fabric{lab: lab, sink: sink, lock: lock, nodes: map[string]*node{}, applied: objects{}}, nil
}

// relock locks the lab's new folder after a sweep removed the old one.
func relock(lab string, old *os.File) (*os.File, error) {
	if _, err := os.Stat(lockPath(lab)); err == nil {
		return old, nil
	}
	defer old.Close()
	return acquire(lab)
}

// Current is the State that the last Apply reached.
func (f *Fabric) Current() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Plan says what Apply would do. It changes nothing.
func (f *Fabric) Plan(want State) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, err := f.look()
	if err != nil {
		return nil, err
	}
	return diff(have, flatten(want)).changes, nil
}

// Apply converges the kernel to want and says what it changed. An error names
// every object that failed; the others are done, and the next Apply goes on
// from what the kernel then holds.
func (f *Fabric) Apply(ctx context.Context, want State, opts ...Option) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, trust := f.applied, false
	for _, o := range opts {
		trust = trust || o == Trust
	}
	if !trust || f.suspect {
		var err error
		if have, err = f.look(); err != nil {
			return nil, err
		}
	}
	goal := flatten(want)
	w := diff(have, goal)
	if err := f.intend(want); err != nil {
		return nil, err
	}
	f.suspect = true
	if err := onThread(func() error { return f.carryOut(ctx, w) }); err != nil {
		return w.changes, fmt.Errorf("lab %s: %w", f.lab, err)
	}
	f.state, f.applied, f.suspect = want, goal, false
	f.sink(event.New("", "fabric.applied", map[string]string{"changes": fmt.Sprint(len(w.changes))}))
	return w.changes, f.settle()
}

// intend records the namespaces that are there or will be.
func (f *Fabric) intend(want State) error {
	r := record{Lab: f.lab, PID: os.Getpid()}
	for name := range f.nodes {
		r.Nodes = append(r.Nodes, name)
	}
	for name := range want.Nodes {
		if f.nodes[name] == nil {
			r.Nodes = append(r.Nodes, name)
		}
	}
	return r.write()
}

// settle records what there is after an Apply.
func (f *Fabric) settle() error {
	r := record{Lab: f.lab, PID: os.Getpid()}
	for name := range f.nodes {
		r.Nodes = append(r.Nodes, name)
	}
	return r.write()
}

// Destroy removes everything and lets go of the lab. Processes that the
// caller started in nodes are the caller's to end; others are killed.
func (f *Fabric) Destroy(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop()
	if f.lock == nil {
		return nil
	}
	err := sweep(f.lab)
	f.lock.Close()
	f.lock = nil
	if err != nil {
		return fmt.Errorf("destroy lab %s: %w", f.lab, err)
	}
	return os.RemoveAll(filepath.Dir(lockPath(f.lab)))
}

// Close lets go of the lab and leaves it in the kernel.
func (f *Fabric) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop()
	if f.lock == nil {
		return nil
	}
	err := f.lock.Close()
	f.lock = nil
	return err
}

func (f *Fabric) drop() {
	for _, n := range f.nodes {
		n.close()
	}
	f.nodes, f.applied, f.state = map[string]*node{}, objects{}, State{}
}

// NSPath is where the node's namespace is mounted: `ip netns exec` takes its
// base name.
func (f *Fabric) NSPath(node string) string { return nsPath(f.lab, node) }

// ErrNoNode is the error of Do and Start for a node that is not there.
var ErrNoNode = errors.New("no such node in the running lab")

// Do runs fn in the node's network namespace. fn must not start goroutines
// that rely on it, nor leave the thread.
func (f *Fabric) Do(node string, fn func() error) error {
	f.mu.Lock()
	n := f.nodes[node]
	f.mu.Unlock()
	if n == nil {
		return fmt.Errorf("node %s: %w", node, ErrNoNode)
	}
	return n.ns.Do(func(hostNS) error { return fn() })
}

// Start starts a process in the node's network namespace.
func (f *Fabric) Start(node string, cmd *exec.Cmd) error {
	return f.Do(node, cmd.Start)
}
