package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/frr"
	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/topo"
)

// Deployment is a lab to be made what a scenario says, and to be left running.
type Deployment struct {
	Home     *Home
	Plan     *topo.Plan
	File     string // for messages
	Source   []byte // the scenario's text
	Kernel   kernel.Substrate
	DryRun   bool
	Deadline time.Duration // of the wait for routes; 0: default
	// Keeper is the command line that runs Keep in a new process; "--log-file
	// PATH" is added to it.
	Keeper   []string
	Progress func(Phase) // may be nil
}

// Deployed is the outcome of Deploy.
type Deployed struct {
	DeployReply
	New       bool          // the lab was not there before
	Substrate string        // of a new lab
	Boot      time.Duration // of a new lab's kernel
}

// Deploy makes the lab what the scenario says. A lab that runs is converged; a
// new one is given a keeper of its own, which stays. A new lab that fails
// leaves nothing.
func Deploy(ctx context.Context, d Deployment) (*Deployed, error) {
	if d.Progress == nil {
		d.Progress = func(Phase) {}
	}
	req := DeployRequest{File: d.File, Source: d.Source, Name: d.Plan.Lab, DryRun: d.DryRun, Deadline: d.Deadline}
	name := d.Plan.Lab
	if d.Home.Alive(name) {
		if is := d.Home.info(name).State; d.Kernel != kernel.Auto && is.Substrate != string(d.Kernel) {
			return nil, fmt.Errorf("lab %s runs on kernel %s, not %s: destroy it first (vpclab destroy -n %s)", name, is.Substrate, d.Kernel, name)
		}
		c, err := d.Home.Client(name)
		if err != nil {
			return nil, err
		}
		r, err := c.Deploy(ctx, req, d.Progress)
		if err != nil {
			return nil, err
		}
		return &Deployed{DeployReply: *r}, nil
	}
	if d.DryRun {
		return &Deployed{New: true, DeployReply: DeployReply{Preview: PreviewNew(d.Plan)}}, nil
	}
	k, err := launch(ctx, d)
	if err != nil {
		return nil, err
	}
	c, err := d.Home.Client(name)
	if err != nil {
		return nil, errors.Join(err, k.abandon())
	}
	r, err := c.Deploy(ctx, req, d.Progress)
	if err == nil {
		err = k.keep()
	}
	if err != nil {
		return nil, errors.Join(err, k.abandon())
	}
	return &Deployed{New: true, DeployReply: *r, Substrate: k.up.Substrate, Boot: k.up.Boot}, nil
}

// keeperProc is the launcher's view of a keeper process.
type keeperProc struct {
	cmd  *exec.Cmd
	conn *os.File
	log  string
	up   keeperLine
}

// launch starts a keeper and waits until its daemon answers.
func launch(ctx context.Context, d Deployment) (*keeperProc, error) {
	labs := d.Home.labs()
	if err := os.MkdirAll(labs, 0o755); err != nil {
		return nil, fmt.Errorf("lab %s: make its folder: %w", d.Plan.Lab, err)
	}
	log, err := os.CreateTemp(labs, startPrefix+"*.log")
	if err != nil {
		return nil, fmt.Errorf("lab %s: make its log: %w", d.Plan.Lab, err)
	}
	defer log.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "keeper"), os.NewFile(uintptr(fds[1]), "launcher")
	defer theirs.Close()

	argv := append(append([]string(nil), d.Keeper...), "--log-file", log.Name())
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		ours.Close()
		os.Remove(log.Name())
		return nil, fmt.Errorf("lab %s: start its keeper: %w", d.Plan.Lab, err)
	}
	k := &keeperProc{cmd: cmd, conn: ours, log: log.Name()}
	if err := k.waitUp(ctx, d.Progress); err != nil {
		return nil, errors.Join(err, k.abandon())
	}
	return k, nil
}

// waitUp reads the keeper's lines until it is up or has failed.
func (k *keeperProc) waitUp(ctx context.Context, progress func(Phase)) error {
	release := context.AfterFunc(ctx, func() { _ = unix.Shutdown(int(k.conn.Fd()), unix.SHUT_RDWR) })
	defer release()
	sc := bufio.NewScanner(k.conn)
	for sc.Scan() {
		var line keeperLine
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			return fmt.Errorf("keeper: %q is not what a keeper says: %w", sc.Text(), err)
		}
		switch {
		case line.Missing != "":
			return &kernel.Unusable{Substrate: kernel.Substrate(line.Substrate), Missing: line.Missing, Fix: line.Fix}
		case line.Error != "":
			return errors.New(line.Error)
		case line.Up:
			k.up = line
			return nil
		case line.Phase != "":
			progress(Phase{Name: line.Phase})
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("the keeper ended before the lab was up%s", k.lastWords())
}

// lastWords are the last lines of a keeper that died without a message.
func (k *keeperProc) lastWords() string {
	b, err := os.ReadFile(k.log)
	if err != nil || len(strings.TrimSpace(string(b))) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return ": " + strings.Join(lines[max(0, len(lines)-5):], "\n  ")
}

// keep tells the keeper to go on alone.
func (k *keeperProc) keep() error {
	_, err := k.conn.WriteString(wordKeep + "\n")
	if err != nil {
		return fmt.Errorf("tell the keeper to go on: %w", err)
	}
	k.conn.Close()
	return k.cmd.Process.Release()
}

// abandon lets the keeper notice that nobody wants the lab, and waits for it
// to have cleaned up and ended.
func (k *keeperProc) abandon() error {
	k.conn.Close()
	ended := make(chan struct{})
	go func() { _ = k.cmd.Wait(); close(ended) }() // ends at the latest by the kill below
	defer os.Remove(k.log)
	select {
	case <-ended:
		return nil
	case <-time.After(stopDeadline + 5*time.Second):
		_ = k.cmd.Process.Kill()
		<-ended
		return errors.New("the keeper did not end in time and was killed: vpclab gc removes what it left")
	}
}

// Destroy ends a lab of this home: in order if its daemon answers before ctx
// ends, else by killing its keeper and clearing up behind it.
func (h *Home) Destroy(ctx context.Context, name string) error {
	lock, err := os.Open(filepath.Join(h.folder(name), lockName))
	if err != nil || !h.Alive(name) {
		if err == nil {
			lock.Close()
		}
		return h.noLab(name)
	}
	defer lock.Close()
	c, err := h.Client(name)
	if err == nil {
		err = c.Destroy(ctx)
	}
	patience := ctx
	if err != nil { // it may just have ended by itself
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, drainTime)
		defer cancel()
	}
	if gone := h.waitGone(patience, lock); gone == nil {
		return nil
	} else if err == nil {
		err = gone
	}
	state := h.info(name).State
	if state.Verb != "keeper" {
		return fmt.Errorf("destroy lab %s: %w (it belongs to vpclab %s, pid %d: interrupt that)", name, err, state.Verb, state.PID)
	}
	_ = syscall.Kill(state.PID, syscall.SIGKILL)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopDeadline)
	defer cancel()
	if e := h.waitGone(end, lock); e != nil {
		return fmt.Errorf("destroy lab %s: %w; its keeper, pid %d, does not end: %w", name, err, state.PID, e)
	}
	if _, e := h.GC(end); e != nil {
		return fmt.Errorf("destroy lab %s: %w", name, e)
	}
	return nil
}

// GC removes what dead labs left: their folders, and on this machine's own
// kernel their namespaces and processes. It returns a line for each thing.
func (h *Home) GC(ctx context.Context) ([]string, error) {
	removed, err := h.clearFolders()
	if os.Geteuid() != 0 {
		return removed, err
	}
	labs, e := fabric.GC(ctx, func(lab string) bool { return h.Alive(lab) })
	for _, l := range labs {
		removed = append(removed, "namespaces of lab "+l)
	}
	folders, fe := frr.GC(h.Alive) // after the processes that use them
	for _, l := range folders {
		removed = append(removed, "folders of FRR in lab "+l)
	}
	vms, ve := cleanVMs(func(lab string) bool { return h.Alive(lab) || fabric.Recorded(lab) })
	for _, l := range vms {
		removed = append(removed, "memories and disks of VMs of lab "+l)
	}
	return removed, errors.Join(err, e, fe, ve)
}

// clearFolders removes the folders of dead labs, and of half removed ones.
func (h *Home) clearFolders() (removed []string, err error) {
	entries, err := os.ReadDir(h.labs())
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	turn, err := h.turn()
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	for _, e := range entries {
		path := filepath.Join(h.labs(), e.Name())
		var fault error
		switch {
		case strings.HasPrefix(e.Name(), gonePrefix):
			fault = os.RemoveAll(path)
		case strings.HasPrefix(e.Name(), startPrefix):
			if st, e := os.Stat(path); e != nil || time.Since(st.ModTime()) < time.Minute {
				continue // its keeper may be about to take it
			}
			fault = os.Remove(path)
		case e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !h.Alive(e.Name()):
			fault = h.discard(e.Name())
			if fault == nil {
				removed = append(removed, "folder of lab "+e.Name())
			}
		}
		err = errors.Join(err, fault)
	}
	return removed, err
}
