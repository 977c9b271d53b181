package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/lease"
	"github.com/vpclab/vpclab/topo"
)

// witnesses are the processes that keep the record whose protected VMs are, one
// at each host that is a witness of any; see package lease. One that dies is
// started again, and goes on with what it has written down.
type witnesses struct {
	lab *Lab
	wg  sync.WaitGroup // the goroutines that watch the processes

	mu    sync.Mutex
	hosts map[string]*witness
}

// witness is one host's.
type witness struct {
	host string

	turn     sync.Mutex // held by whoever starts it or tells it whom to serve
	proc     *lease.Process
	deaths   []time.Time
	stopping bool
}

func newWitnesses(l *Lab) *witnesses { return &witnesses{lab: l, hosts: map[string]*witness{}} }

func (w *witnesses) host(name string) *witness {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hosts[name] == nil {
		w.hosts[name] = &witness{host: name}
	}
	return w.hosts[name]
}

// serve has the witness at a host serve the VMs that it is the witness of, unless
// the host is down.
func (w *witnesses) serve(ctx context.Context, f *fabric.Fabric, plan *topo.Plan, host string) error {
	if w.lab.held(host, witnessProcess) {
		return nil
	}
	at, err := plan.HostAddr(host)
	if err != nil {
		return err
	}
	x := w.host(host)
	x.turn.Lock()
	defer x.turn.Unlock()
	if x.stopping {
		return errDestroyed
	}
	if x.proc == nil || isDone(x.proc.Done()) {
		if err := w.start(ctx, f, x, at); err != nil {
			return err
		}
	}
	var errs []error
	for _, k := range w.lab.pairs.witnessed(host) {
		cfg, err := k.lease(plan)
		if err == nil {
			_, err = x.proc.Serve(ctx, cfg, k.pair.Hosts[0])
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// start starts the process; the caller has the turn.
func (w *witnesses) start(ctx context.Context, f *fabric.Fabric, x *witness, at netip.Addr) error {
	now := time.Now()
	for len(x.deaths) > 0 && now.Sub(x.deaths[0]) > agentWindow {
		x.deaths = x.deaths[1:]
	}
	if len(x.deaths) > maxAgentRestarts {
		return fmt.Errorf("the witness at %s died %d times within %v (%w)", x.host, len(x.deaths), agentWindow, x.proc.Err())
	}
	dir := filepath.Join(w.lab.hypers.dir, "hosts", x.host, witnessFolder)
	again := x.proc != nil
	proc, err := lease.Start(ctx, f, x.host, netip.AddrPortFrom(at, witnessPort), dir, w.lab.observe)
	if err != nil {
		return err
	}
	x.proc = proc
	kind := "witness.started"
	if again {
		kind = "witness.restarted"
	}
	w.lab.observe(event.New(x.host, kind, map[string]string{"pid": strconv.Itoa(proc.Pid())}))
	w.wg.Go(func() { w.watch(x, proc) })
	return nil
}

// witnessFolder is where a host's witness has its records, beside the folders of
// VMs: no VM can be named so.
const witnessFolder = ".witness"

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// watch waits for the end of a witness and starts another.
func (w *witnesses) watch(x *witness, proc *lease.Process) {
	<-proc.Done()
	x.turn.Lock()
	stopping := x.stopping
	x.deaths = append(x.deaths, time.Now())
	x.turn.Unlock()
	if stopping {
		return
	}
	why := "killed"
	if err := proc.Err(); err != nil {
		why = err.Error()
	}
	w.lab.observe(event.New(x.host, "witness.died", map[string]string{"error": why}))
	ctx, cancel := context.WithTimeoutCause(context.Background(), ownDeadline, fmt.Errorf("waited %v for a new witness", ownDeadline))
	defer cancel()
	if err := w.revive(ctx, x.host); err != nil {
		w.lab.log.Error("witness not brought back", "host", x.host, "error", err)
		w.lab.observe(event.New(x.host, "witness.given-up", map[string]string{"error": err.Error()}))
	}
}

// revive has a host's witness run again, where it has VMs to serve and the host
// is not down.
func (w *witnesses) revive(ctx context.Context, host string) error {
	plan, f := w.lab.planOrPending(), w.lab.Fabric()
	if plan == nil || f == nil || len(w.lab.pairs.witnessed(host)) == 0 {
		return nil
	}
	return w.serve(ctx, f, plan, host)
}

// running is the witness of a host if there is one.
func (w *witnesses) running(host string) *lease.Process {
	x := w.host(host)
	x.turn.Lock()
	defer x.turn.Unlock()
	if x.proc == nil || isDone(x.proc.Done()) {
		return nil
	}
	return x.proc
}

// stopAll ends them.
func (w *witnesses) stopAll() error {
	w.mu.Lock()
	hosts := w.hosts
	w.hosts = map[string]*witness{}
	w.mu.Unlock()
	var errs []error
	for _, x := range hosts {
		x.turn.Lock()
		x.stopping = true
		if x.proc != nil {
			errs = append(errs, x.proc.Kill())
		}
		x.turn.Unlock()
	}
	w.wg.Wait()
	return errors.Join(errs...)
}
