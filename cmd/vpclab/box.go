package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/kernel"
)

// boxFlags are the flags of verbs that can work on virtual time, in a closed box.
type boxFlags struct {
	clock string
	shift int
	speed int
	seed  uint64
	files []string
}

func (f *boxFlags) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.clock, "clock", "real", "real, or virtual: a closed box in QEMU whose time is counted in instructions, the same on every machine")
	cmd.Flags().IntVar(&f.speed, "cpu-speed", kernel.DefaultSpeed, "with --clock virtual: the processor does so many instructions in a ns")
	cmd.Flags().IntVar(&f.shift, "shift", 0, "with --clock virtual: … divided by 2^SHIFT: for processors slower than one a ns")
	cmd.Flags().Uint64Var(&f.seed, "box-seed", 1, "with --clock virtual: seed of the machine's random numbers")
	complete(cmd, "clock", func(string) []string { return []string{"real", "virtual"} })
}

// virtual tells whether the user asked for virtual time, and refuses what does
// not go with it.
func (f *boxFlags) virtual(word string) (bool, error) {
	switch f.clock {
	case "real":
		return false, nil
	case "virtual":
	default:
		return false, usageError{fmt.Errorf("--clock %q: want real or virtual", f.clock)}
	}
	if s, err := kernel.ParseSubstrate(word); err != nil {
		return false, usageError{err}
	} else if s != kernel.Auto && s != kernel.QEMU {
		return false, usageError{fmt.Errorf("--clock virtual needs --kernel qemu, not %s: no other kernel's time can be counted", s)}
	}
	if f.speed < 1 || f.speed > kernel.MaxSpeed {
		return false, usageError{fmt.Errorf("--cpu-speed %d: want 1 to %d instructions in a ns; --shift is for less", f.speed, kernel.MaxSpeed)}
	}
	if f.shift < 0 || f.shift > kernel.MaxShift {
		return false, usageError{fmt.Errorf("--shift %d: want 0 to %d: the speed is divided by 2^SHIFT", f.shift, kernel.MaxShift)}
	}
	return true, nil
}

// boxTools are packed where the host has them: what people and tests look into a
// lab with.
var boxTools = []string{"sh", "cat", "ls", "ip", "tc", "bridge", "ping", "sysctl", "ethtool", "tcpdump", "ss"}

// boxEnv is what a command in a box gets of our environment: what is told to
// vpclab's tests and to Go, and nothing that differs from one machine to the next.
func boxEnv() []string {
	env := runEnv()
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case name == kernel.EnvKernel, name == "VPCLAB_HOME", strings.HasPrefix(name, "VPCLAB_QEMU"), strings.HasPrefix(name, "VPCLAB_UML"):
		case strings.HasPrefix(name, "VPCLAB_"), name == "GODEBUG", name == "GOTRACEBACK", name == "GOGC":
			env = append(env, kv)
		}
	}
	return env
}

// runEnv is what the runner gets in a box: the same everywhere.
func runEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "VPCLAB_HOME=/run/vpclab", kernel.EnvKernel + "=" + string(kernel.QEMU)}
}

// exec runs one command in a closed box.
func (f *boxFlags) exec(ctx context.Context, cfg kernel.Config, args []string, verbose bool) error {
	files, err := kernel.Programs(false, args[0])
	if err != nil {
		return err
	}
	tools, err := kernel.Programs(true, boxTools...)
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	more := f.files
	if _, err := os.Stat("testdata"); err == nil {
		more = append(more, "testdata")
	}
	for _, name := range more {
		path, err := filepath.Abs(name)
		if err != nil {
			return usageError{err}
		}
		files = append(files, kernel.BoxFile{Path: path, From: path})
	}
	box := kernel.BoxConfig{
		Argv: append([]string{files[0].Path}, args[1:]...), Env: boxEnv(), Dir: dir, Files: append(files, tools...),
		Memory: cfg.Memory, Shift: f.shift, Speed: f.speed, Seed: f.seed, Scratch: cfg.Dir,
		Stdout: os.Stdout, Stderr: os.Stderr, Log: cfg.Log,
	}
	res, err := kernel.RunBox(ctx, box)
	if err != nil {
		return err
	}
	if verbose {
		for _, why := range res.Without {
			fmt.Fprintln(os.Stderr, "vpclab: without", why)
		}
		fmt.Fprintf(os.Stderr, "vpclab: exit code %d after %s\n", res.Code, boxTime(res))
	}
	if res.Code != 0 {
		return exitCode(res.Code)
	}
	return nil
}

// boxTime tells how long a box ran, on both clocks.
func boxTime(r kernel.BoxResult) string {
	text := fmt.Sprintf("%.3f s of virtual time in %v (ratio %.2f)", r.Virtual.Seconds(), r.Wall.Round(10*time.Millisecond), r.Ratio())
	if r.Unsteady != "" {
		text += "; another run may differ by some ns: " + r.Unsteady
	}
	return text
}
