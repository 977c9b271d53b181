package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/kernel"
)

// HoldConfig says which lab to hold and on which kernel.
type HoldConfig struct {
	Home    *Home
	Lab     string
	Verb    string // for state.json: keeper, run
	File    string // the scenario, for state.json
	Version string
	Kernel  kernel.Config // Dir is set by Hold
	Log     *slog.Logger
	// LogFile is a file that becomes keeper.log once there is a folder; "":
	// none.
	LogFile string
}

// Holder is a lab's kernel, kept by this process, and the socket by which
// other processes reach the daemon inside.
type Holder struct {
	Machine *kernel.Machine

	claim  *claim
	ln     net.Listener
	log    *slog.Logger
	wg     sync.WaitGroup // the accept loop and every forwarded connection
	finish sync.Once
	err    error
}

// Hold claims the lab's name, boots its kernel and opens its socket. Nothing
// is left when it fails. The lab ends with Close or with this process.
func Hold(ctx context.Context, cfg HoldConfig) (*Holder, error) {
	c, err := cfg.Home.claim(cfg.Lab)
	if err != nil {
		return nil, err
	}
	h := &Holder{claim: c, log: cfg.Log}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if err := h.up(ctx, cfg); err != nil {
		_ = h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Holder) up(ctx context.Context, cfg HoldConfig) error {
	if cfg.LogFile != "" {
		if err := os.Rename(cfg.LogFile, filepath.Join(h.claim.dir, logName)); err != nil {
			return fmt.Errorf("lab %s: place its log: %w", cfg.Lab, err)
		}
	}
	state := State{Lab: cfg.Lab, PID: os.Getpid(), Verb: cfg.Verb, Substrate: string(cfg.Kernel.Substrate), File: cfg.File, Version: cfg.Version, Started: time.Now()}
	if err := h.claim.write(state); err != nil {
		return err
	}
	kcfg := cfg.Kernel
	kcfg.Lab = cfg.Lab
	kcfg.Dir = filepath.Join(h.claim.dir, kernelName)
	m, err := kernel.Start(ctx, kcfg)
	if err != nil {
		return fmt.Errorf("lab %s: start its kernel: %w", cfg.Lab, err)
	}
	h.Machine = m
	if err := h.listen(); err != nil {
		return fmt.Errorf("lab %s: open its socket: %w", cfg.Lab, err)
	}
	state.Up, state.Substrate = true, string(m.Substrate)
	return h.claim.write(state)
}

// listen opens lab.sock and forwards each connection to the daemon.
func (h *Holder) listen() error {
	path, done, err := shortPath(h.claim.dir, sockName)
	if err != nil {
		return err
	}
	defer done()
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // goes with the folder; path may be short-lived
	if err := os.Chmod(filepath.Join(h.claim.dir, sockName), 0o600); err != nil {
		ln.Close()
		return err
	}
	h.ln = ln
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			h.wg.Add(1)
			go func() {
				defer h.wg.Done()
				h.forward(conn)
			}()
		}
	}()
	return nil
}

// drainTime is how long the last words of a daemon may take to its client.
const drainTime = time.Second

// forward joins a client with the daemon until either hangs up. When the
// kernel ends, what the daemon said last is still delivered.
func (h *Holder) forward(client net.Conn) {
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	daemon, err := h.Machine.Dial(ctx)
	cancel()
	if err != nil {
		h.log.Warn("forward a connection", "error", err)
		return
	}
	defer daemon.Close()
	ended := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(daemon, client); ended <- struct{}{} }()
	go func() { _, _ = io.Copy(client, daemon); ended <- struct{}{} }()
	left := 2
	select {
	case <-ended:
		left--
	case <-h.Machine.Done():
		_ = daemon.SetReadDeadline(time.Now().Add(drainTime))
		_ = client.SetReadDeadline(time.Now()) // nobody listens to it any more
		<-ended
		<-ended
		left = 0
	}
	client.Close()
	daemon.Close()
	for ; left > 0; left-- {
		<-ended
	}
}

// Client speaks to the daemon inside.
func (h *Holder) Client() *Client { return NewClient(h.Machine.Dial) }

// Done is closed when the kernel has ended, as it does after a destroy.
func (h *Holder) Done() <-chan struct{} { return h.Machine.Done() }

// stopDeadline bounds the orderly end of a lab on the host's kernel, where it
// has to be taken down object by object; a booted kernel takes all along when
// it is killed, so that there is little to wait for.
const (
	stopDeadline       = 20 * time.Second
	stopDeadlineBooted = 3 * time.Second
)

// Close ends the kernel and removes the lab's folder.
func (h *Holder) Close() error { return h.end(h.claim.release) }

// leave is Close, but for the folder: it stays, dead, with the log that tells
// why.
func (h *Holder) leave() error { return h.end(h.claim.lock.Close) }

func (h *Holder) end(folder func() error) error {
	h.finish.Do(func() {
		if h.ln != nil {
			h.ln.Close()
		}
		if h.Machine != nil {
			limit := stopDeadlineBooted
			if h.Machine.Substrate == kernel.Host {
				limit = stopDeadline
			}
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			h.err = h.Machine.Stop(ctx)
		}
		h.wg.Wait()
		h.err = errors.Join(h.err, folder())
	})
	return h.err
}

// keeperLine is what a keeper tells its launcher, one JSON object a line.
type keeperLine struct {
	Phase     string        `json:"phase,omitempty"` // boot
	Up        bool          `json:"up,omitempty"`    // the daemon answers
	Substrate string        `json:"substrate,omitempty"`
	Boot      time.Duration `json:"boot_ns,omitempty"`
	Error     string        `json:"error,omitempty"`
	Missing   string        `json:"missing,omitempty"` // of a kernel.Unusable
	Fix       string        `json:"fix,omitempty"`
	Taken     bool          `json:"taken,omitempty"` // ErrTaken
}

// wordKeep is the launcher's answer: the lab is to go on without it.
const wordKeep = "keep"

// Keep is the body of a keeper process: it holds a lab until it is destroyed
// or ctx ends. conn leads to the launcher; when the launcher goes away before
// it said that the lab is to be kept, the lab ends and nothing of it is left.
func Keep(ctx context.Context, cfg HoldConfig, conn io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	listening := make(chan struct{})
	go func() { // ends with conn, which Keep closes
		defer close(listening)
		word, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || word != wordKeep+"\n" {
			cancel(errors.New("the command that deployed the lab ended before the lab was ready"))
		}
	}()
	defer func() { conn.Close(); <-listening }()

	enc := json.NewEncoder(conn)
	_ = enc.Encode(keeperLine{Phase: "boot"}) // a launcher that is gone is noticed by the reader
	h, err := Hold(ctx, cfg)
	if err != nil {
		line := keeperLine{Error: err.Error(), Taken: errors.Is(err, ErrTaken)}
		var u *kernel.Unusable
		if errors.As(err, &u) {
			line.Substrate, line.Missing, line.Fix = string(u.Substrate), u.Missing, u.Fix
		}
		_ = enc.Encode(line)
		return err
	}
	_ = enc.Encode(keeperLine{Up: true, Substrate: string(h.Machine.Substrate), Boot: h.Machine.BootTime})
	select {
	case <-h.Done():
		if err := h.Machine.Err(); err != nil {
			return errors.Join(err, h.leave())
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return errors.Join(err, h.Close())
}
