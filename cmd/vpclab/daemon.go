package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/vpclab/vpclab/emu/audit"
	"github.com/vpclab/vpclab/emu/fidelity"
	"github.com/vpclab/vpclab/emu/frr"
	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/scenarios"
)

// insideArgs are what the launcher tells the daemon in a booted kernel.
func insideArgs(labName string, level string) []string { return []string{labName, level} }

// serveInside is the lab daemon in a booted kernel.
func serveInside(ctx context.Context, ln net.Listener, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("the lab daemon wants the lab's name and a log level, not %q", args)
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(args[1])) // checked by the launcher
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return serveLab(ctx, ln, args[0], kernel.Inside(), log)
}

// serveOnHost is the lab daemon in this process, for the host's own kernel.
func serveOnHost(labName string) func(context.Context, net.Listener) error {
	return func(ctx context.Context, ln net.Listener) error {
		return serveLab(ctx, ln, labName, kernel.Host, slog.Default())
	}
}

// serveLab answers for one lab, experiments included.
func serveLab(ctx context.Context, ln net.Listener, name string, substrate kernel.Substrate, log *slog.Logger) error {
	l := lab.New(lab.Config{Name: name, Substrate: string(substrate), Log: log})
	return lab.Serve(ctx, ln, l, map[string]http.Handler{
		"POST " + runPath:       scenarios.Handler(l),
		"POST " + audit.Path:    audit.Handler(l),
		"POST " + fidelity.Path: fidelity.Handler(l),
	})
}

// runPath is where the daemon takes experiments.
const runPath = "/v1/run"

// kernelFor is what a lab of the given size needs of its kernel.
func kernelFor(labName string, s kernel.Substrate, memory int64, writable ...string) kernel.Config {
	var visible []string
	if in, err := frr.Find(); err == nil {
		visible = append(visible, in.Root)
	}
	return kernel.Config{
		Substrate: s, Memory: memory, Writable: writable, Visible: visible,
		InitArgs: insideArgs(labName, global.logLevel), Serve: serveOnHost(labName),
	}
}
