package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/scenarios"
	"github.com/vpclab/vpclab/topo"
)

// boxedPath is where the inside finds what it is to do.
const boxedPath = "/box/run.json"

// newBoxed makes the verb that is the inside of a run on virtual time.
func newBoxed() *cobra.Command {
	return &cobra.Command{
		Use:    "boxed",
		Short:  "do the experiments that " + boxedPath + " says, in a closed box",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			post, err := kernel.OpenPost()
			if err != nil {
				return usageError{err}
			}
			data, err := os.ReadFile(boxedPath)
			if err != nil {
				return usageError{err}
			}
			var b scenarios.Boxed
			if err := json.Unmarshal(data, &b); err != nil {
				return fmt.Errorf("%s: %w", boxedPath, err)
			}
			l := lab.New(lab.Config{Name: b.Request.File, Substrate: string(kernel.QEMU), Log: slog.Default()})
			return b.Run(cmd.Context(), l, post.Send)
		},
	}
}

// measureBoxed has the experiments done in a closed box.
func measureBoxed(ctx context.Context, sc *topo.Scenario, plan *topo.Plan, o runOptions, req scenarios.Request, p *progress) (v scenarios.Verdict, err error) {
	if err := fitForBox(plan, sc.Experiments); err != nil {
		return v, err
	}
	box := kernel.BoxConfig{
		Argv: []string{kernel.BoxProgram, "boxed", "--log-level", global.logLevel}, Env: runEnv(),
		Lab: "vpclab", Memory: int64(sc.Kernel.Memory), Shift: o.box.shift, Speed: o.box.speed, Seed: o.box.seed, Stdout: os.Stderr, Stderr: os.Stderr,
	}
	made, err := kernel.LookIntoBox(ctx, box)
	if err != nil {
		return v, err
	}
	req.Info.Kernel, req.Info.Program = boxKernel(made, box), made.Program
	o.notice(req.Info, p)
	began := time.Now()
	run, err := scenarios.OpenBoxed(req, func(pr scenarios.Progress) {
		if pr.ElapsedS > 0 { // what is left is told in virtual time
			pr.RemainingS *= time.Since(began).Seconds() / pr.ElapsedS
		}
		showProgress(p, pr)
	})
	if err != nil {
		return v, err
	}
	inside, err := run.Inside()
	if err != nil {
		return v, err
	}
	orders, err := json.Marshal(inside)
	if err != nil {
		return v, err
	}
	box.Files = []kernel.BoxFile{{Path: boxedPath, Data: orders}}
	box.Letter = run.Letter
	p.show("boot", "starting a closed box", 0)
	res, err := kernel.RunBox(ctx, box)
	if err == nil && res.Code != 0 {
		err = fmt.Errorf("in the box: exit status %d", res.Code)
	}
	info := boxKernel(res.Box, box)
	info.Virtual.VirtualS, info.Virtual.WallS = res.Virtual.Seconds(), res.Wall.Seconds()
	if v, err = run.Finish(ctx, info, err); err == nil {
		p.note("vpclab: " + boxTime(res))
	}
	return v, err
}

// fitForBox refuses what needs more than a closed box has.
func fitForBox(plan *topo.Plan, experiments []topo.Experiment) error {
	if who, _ := realGuest(plan, experiments); who != "" {
		return usageError{fmt.Errorf("--clock virtual: %s is for QEMU guests, and no QEMU is packed into a closed box, where each of its instructions would take the time of hundreds: use --clock real, or `guest: process`", who)}
	}
	for _, n := range plan.OfKind(topo.KindPE, topo.KindP) {
		if n.Routing == topo.RoutingFRR {
			return usageError{fmt.Errorf("--clock virtual: router %s has routing frr, and FRR's daemons are not packed into a closed box: use --clock real", n.Name)}
		}
	}
	return nil
}

// boxKernel is what run.json says of a box.
func boxKernel(m kernel.BoxMake, cfg kernel.BoxConfig) metrics.KernelInfo {
	memory := cfg.Memory
	if memory == 0 {
		memory = kernel.DefaultMemory
	}
	return metrics.KernelInfo{
		Substrate: string(kernel.QEMU), Release: m.Release, Clock: "virtual", CPUs: 1, MemoryMiB: int(memory >> 20), Image: m.Image,
		Virtual: &metrics.VirtualInfo{Emulator: m.Emulator, Machine: m.Machine, Image: m.Image, Program: m.Program, Shift: m.Shift, Speed: m.Speed, Seed: m.Seed},
	}
}
