package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/unixsock"
)

// Verb is the hidden verb of the program that runs Run.
const Verb = "guest"

// Config is what a guest process is told when it starts.
type Config struct {
	Spec   Spec
	Folder string // of its memory and disk, which are there; "": a standby
	Socket string // where it listens for Control
	// Record, where it is not empty, is a file that the run's writes are recorded
	// in, to be played by workload trace.
	Record string `json:",omitempty"`
	// Leash, where it is not empty, is the folder of a leash that it is on.
	Leash string `json:",omitempty"`
	// NetNS is where the namespace is mounted of the host that it starts at: its
	// QEMU runs in it. Process guests have no use for it.
	NetNS string `json:",omitempty"`
}

// ParseConfig reads the verb's argument.
func ParseConfig(arg string) (Config, error) {
	var c Config
	if err := child.Decode([]byte(arg), &c); err != nil {
		return Config{}, fmt.Errorf("guest: argument: %w", err)
	}
	if c.Socket == "" {
		return Config{}, errors.New("guest: argument names no socket")
	}
	if c.Folder == "" && c.Record != "" {
		return Config{}, errors.New("guest: argument has a standby record its writes")
	}
	return c, c.Spec.Check()
}

// readyLine is what a guest writes to standard output when clients and agents
// can reach it.
const readyLine = "ready\n"

// SayReady writes that.
func SayReady(to io.Writer) error {
	if _, err := io.WriteString(to, readyLine); err != nil {
		return fmt.Errorf("say that it is ready: %w", err)
	}
	return nil
}

// Launch starts `program guest …` by start, which may put it into a namespace,
// and waits until it can be reached. The process is the caller's to wait for,
// and to end; its standard error is the caller's as set before start runs it.
func Launch(ctx context.Context, program string, c Config, start func(*exec.Cmd) error) (*exec.Cmd, error) {
	arg, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", c.Spec.Name, err)
	}
	cmd := exec.Command(program, Verb, string(arg))
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", c.Spec.Name, err)
	}
	defer out.Close()
	cmd.Stdout = in
	err = start(cmd)
	in.Close()
	if err != nil {
		return nil, fmt.Errorf("guest %s: start: %w", c.Spec.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { out.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, len(readyLine))
	if _, err := io.ReadFull(out, b); err != nil || string(b) != readyLine {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, waitError(ctx, fmt.Sprintf("guest %s: wait until it is ready (%v)", c.Spec.Name, cmd.ProcessState), err)
	}
	return cmd, nil
}

// Run is the body of a guest process. ready is told once when it can be
// reached. It returns when ctx ends.
func Run(ctx context.Context, c Config, ready io.Writer) (result error) {
	var m *machine
	var err error
	if c.Folder == "" {
		m, err = newStandby(c.Spec)
	} else {
		m, err = newMachine(c.Spec, c.Folder)
	}
	if err != nil {
		return err
	}
	if c.Record != "" {
		end, err := m.record(c.Record)
		if err != nil {
			return err
		}
		defer func() { result = errors.Join(result, end()) }()
	}
	if c.Leash != "" {
		if m.gate.leash, err = OpenLeash(c.Leash); err != nil {
			return err
		}
	}
	GoAhead()
	control, err := unixsock.Listen(c.Socket)
	if err != nil {
		return fmt.Errorf("guest %s: %w", c.Spec.Name, err)
	}
	defer control.Close()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var parts sync.WaitGroup
	defer waitAtMost(endPatience, &parts)
	defer end(nil) // before waiting
	part := func(run func(context.Context) error) {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				end(err)
			}
		})
	}
	if c.Spec.Port != 0 {
		if err := m.clients.listen(); err != nil {
			return fmt.Errorf("guest %s: %w", c.Spec.Name, err)
		}
		part(m.clients.serve)
	}
	part(func(ctx context.Context) error { return Serve(ctx, control, c.Spec.Name, m) })
	part(func(ctx context.Context) error { m.run(ctx); return nil })
	if err := SayReady(ready); err != nil {
		return fmt.Errorf("guest %s: %w", c.Spec.Name, err)
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// endPatience is how long the parts of a guest have to end. One that stands at a
// missing page ends with the process, and not before.
const endPatience = 2 * time.Second

func waitAtMost(d time.Duration, parts *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { parts.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(d):
	}
}
