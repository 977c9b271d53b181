package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/fidelity"
	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/metrics"
)

// calibrateBoxed measures in a closed box, on virtual time: calibrate runs in
// it as it does on a machine's own kernel, and prints what it found.
func calibrateBoxed(ctx context.Context, o calibrateOptions, req fidelity.Request, seed uint64, p *progress) (*metrics.Calibration, error) {
	if req.Peer != "" {
		return nil, usageError{fmt.Errorf("--peer %s: it is not packed into a closed box; measure it with another kernel", req.Peer)}
	}
	host, began := hostInfo(), time.Now()
	var said bytes.Buffer
	box := kernel.BoxConfig{
		Argv: append([]string{kernel.BoxProgram, "calibrate", "--kernel", string(kernel.Host), "--format", "json", "--log-level", global.logLevel}, requestFlags(req)...),
		Env:  runEnv(), Lab: "vpclab", Memory: calibrateMemory, Shift: o.box.shift, Speed: o.box.speed, Seed: seed, Stdout: &said, Stderr: os.Stderr,
	}
	p.show("boot", "starting a closed box", 0)
	p.end() // the inside has a line of its own
	res, err := kernel.RunBox(ctx, box)
	if err != nil {
		return nil, err
	}
	var c metrics.Calibration
	if err := json.Unmarshal(said.Bytes(), &c); err != nil {
		return nil, fmt.Errorf("in the box: exit status %d, and it said no calibration: %w", res.Code, err)
	}
	c.Kernel = boxKernel(res.Box, box)
	c.Kernel.Virtual.VirtualS, c.Kernel.Virtual.WallS = res.Virtual.Seconds(), res.Wall.Seconds()
	c.Started, c.Version, c.Args, c.Host = began, version, os.Args[1:], host // the box has a date of its own
	return &c, nil
}

// requestFlags are the flags that make a calibration inside a box what one was
// asked for outside.
func requestFlags(req fidelity.Request) []string {
	// F12 is the comparison of two boxes.
	flags := []string{"--only", strings.Join(req.Once(), ","), "--up-to", req.UpTo.String()}
	if req.From > 0 {
		flags = append(flags, "--from", req.From.String())
	}
	if req.Quick {
		flags = append(flags, "--quick")
	}
	return flags
}
