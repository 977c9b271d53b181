package main

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/emu/lab"
)

// The tests of the command line are scripts in testdata/script. Those that
// need a lab begin with "[!uml] skip": they boot User Mode Linux as a user
// would, from the outside. This test binary is the vpclab they run, and so it
// must also be what vpclab starts itself: process 1 of a booted kernel, and a
// speaker in a node.

func TestMain(m *testing.M) {
	if kernel.IsInit() {
		kernel.Init(serveInside)
	}
	if os.Getenv(verbEnv) != "" {
		os.Exit(runMain())
	}
	if len(os.Args) > 1 && (os.Args[1] == "speaker" || os.Args[1] == "keeper") {
		os.Exit(runMain())
	}
	testscript.Main(m, map[string]func(){"vpclab": func() { os.Exit(runMain()) }})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("VPCLAB_HOME", filepath.Join(env.WorkDir, "state"))
			golden, err := filepath.Abs("../../metrics/testdata")
			if err != nil {
				return err
			}
			env.Setenv("GOLDEN", golden)
			if cache, err := os.UserCacheDir(); err == nil { // where run.sh unpacks a kernel for users without root
				env.Setenv("XDG_CACHE_HOME", cache)
				env.Setenv("GOCACHE", filepath.Join(cache, "go-build"))
			}
			env.Defer(func() { killLeftOvers(env.WorkDir) })
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "uml":
				return umlWorks(), nil
			case "qemu":
				return qemuWorks(), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"await":     await,
			"kill9":     kill9,
			"interrupt": interrupt,
			"noproc":    noproc,
			"curl":      curl,
			"json-eq":   jsonEq,
		},
	})
}

var umlWorks = sync.OnceValue(func() bool {
	s, err := kernel.Choose(context.Background(), kernel.UML)
	return err == nil && s == kernel.UML
})

// qemuWorks tells whether this test program can be process 1 of a machine in
// QEMU, too: one that was linked with shared libraries cannot.
var qemuWorks = sync.OnceValue(func() bool {
	_, err := kernel.Choose(context.Background(), kernel.QEMU)
	if err != nil {
		return false
	}
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Section(".interp") == nil
})

// patience is how long a script waits for something to become true. UML on a
// busy machine is slow.
const patience = 60 * time.Second

// exits runs a command and checks its exit code: exits CODE COMMAND [ARG…].
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// until polls for something outside of this program that sends no event.
func until(ts *testscript.TestScript, what string, ok func() bool) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			ts.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// await waits for a file: await GLOB [COUNT].
func await(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: await glob [count]")
	}
	count := 1
	if len(args) > 1 {
		var err error
		count, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	until(ts, fmt.Sprintf("%d of %s", count, args[0]), func() bool {
		found := notEmpty(ts, args[0])
		if neg {
			return len(found) == 0
		}
		return len(found) >= count
	})
}

// notEmpty finds files that have something in them.
func notEmpty(ts *testscript.TestScript, glob string) (found []string) {
	all, err := filepath.Glob(ts.MkAbs(glob))
	ts.Check(err)
	for _, f := range all {
		if st, err := os.Stat(f); err == nil && st.Size() > 0 {
			found = append(found, f)
		}
	}
	return found
}

// interrupt runs a command, waits for a file, sends the command a signal, and
// checks its exit code: interrupt SIGNAL GLOB COUNT CODE COMMAND [ARG…]. Its
// output lies in the files "out" and "err" afterwards.
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 5 {
		ts.Fatalf("usage: interrupt signal glob count code command [args...]")
	}
	count, err := strconv.Atoi(args[2])
	ts.Check(err)
	sig := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill}[args[0]]
	cmd := exec.Command(filepath.Join(strings.Split(ts.Getenv("PATH"), ":")[0], args[4]), args[5:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = os.Environ()
	for _, key := range []string{"PATH", "HOME", "VPCLAB_HOME", "XDG_CACHE_HOME", "TMPDIR"} {
		cmd.Env = append(cmd.Env, key+"="+ts.Getenv(key))
	}
	out, err := os.Create(ts.MkAbs("out"))
	ts.Check(err)
	defer out.Close()
	errs, err := os.Create(ts.MkAbs("err"))
	ts.Check(err)
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	ts.Check(cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // ends at the latest by the kill above
	until(ts, fmt.Sprintf("%d of %s", count, args[1]), func() bool {
		select {
		case <-ended:
			text, _ := os.ReadFile(ts.MkAbs("err"))
			ts.Fatalf("it ended before it could be interrupted: %s\n%s", cmd.ProcessState, text)
		default:
		}
		return len(notEmpty(ts, args[1])) >= count
	})
	ts.Check(cmd.Process.Signal(sig))
	until(ts, "the end of the interrupted command", func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	if got := fmt.Sprint(cmd.ProcessState.ExitCode()); got != args[3] {
		text, _ := os.ReadFile(ts.MkAbs("err"))
		ts.Fatalf("exit code %s (%s), want %s\n%s", got, cmd.ProcessState, args[3], text)
	}
}

// kill9 kills the process that keeps a lab, and waits until it is gone: kill9 LAB.
func kill9(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: kill9 lab")
	}
	var s lab.State
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(filepath.Join(ts.Getenv("VPCLAB_HOME"), "labs", args[0], "state.json"))), &s))
	ts.Check(syscall.Kill(s.PID, syscall.SIGKILL))
	until(ts, fmt.Sprintf("the end of process %d", s.PID), func() bool { return errors.Is(syscall.Kill(s.PID, 0), syscall.ESRCH) || isZombie(s.PID) })
}

func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

// noproc waits until no process has this script's folder in its command line:
// all that the script started has ended.
func noproc(ts *testscript.TestScript, _ bool, _ []string) {
	until(ts, "the end of all processes of this script", func() bool { return len(processesOf(ts.Getenv("WORK"))) == 0 })
}

// processesOf finds processes by a folder in their command line, zombies apart.
func processesOf(dir string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killLeftOvers ends what a failed script left running.
func killLeftOvers(dir string) {
	for _, pid := range processesOf(dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// curl asks a lab's daemon over its socket, as any program can:
// curl LAB METHOD PATH [BODY].
func curl(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: curl lab method path [body]")
	}
	sock := filepath.Join(ts.Getenv("VPCLAB_HOME"), "labs", args[0], "lab.sock")
	argv := []string{"-sS", "--fail-with-body", "--max-time", "30", "--unix-socket", sock, "-X", args[1]}
	if len(args) > 3 {
		argv = append(argv, "-d", args[3])
	}
	err := ts.Exec("curl", append(argv, "http://lab"+args[2])...)
	if (err != nil) != neg {
		ts.Fatalf("curl: %v", err)
	}
}

// jsonEq checks a field of the last command's JSON: json-eq KEY[.KEY…] VALUE.
func jsonEq(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json-eq path value")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for _, key := range strings.Split(args[0], ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[key]
		case []any:
			i, err := strconv.Atoi(key)
			if key == "len" {
				v = float64(len(x))
				continue
			}
			if err != nil || i >= len(x) {
				ts.Fatalf("no element %q in a list of %d", key, len(x))
			}
			v = x[i]
		default:
			v = nil
		}
	}
	if got := fmt.Sprint(v); (got == args[1]) == neg {
		ts.Fatalf("%s is %s", args[0], got)
	}
}
