package kernel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// boxedEnv makes the test program a command in a closed box; see boxedMain.
const boxedEnv = "VPCLAB_TEST_BOXED"

// needBox skips where a closed box cannot be had.
func needBox(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots QEMU: left out by -short")
	}
	if os.Getenv(EnvKernel) != "" {
		t.Skip("boots QEMU: not inside a lab kernel")
	}
	if err := qemuUsable(t.Context()); err != nil {
		t.Skip(err)
	}
}

// boxed runs the test program in a closed box of a slow processor, which is quick
// to boot, and gives what it printed.
func boxed(t testing.TB, what string, cfg BoxConfig) (string, BoxResult, error) {
	t.Helper()
	needBox(t)
	var out bytes.Buffer
	cfg.Argv = append([]string{BoxProgram}, cfg.Argv...)
	cfg.Env = append(cfg.Env, EnvKernel+"="+string(QEMU), boxedEnv+"="+what)
	cfg.Memory, cfg.Speed, cfg.Stdout, cfg.Stderr = 384<<20, 1, &out, &out
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	res, err := RunBox(ctx, cfg)
	return out.String(), res, err
}

// boxedMain is the test program inside a box.
func boxedMain(what string) int {
	switch what {
	case "fate":
		fate()
	case "letters":
		post, err := OpenPost()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		for _, n := range []int{0, 1, maxFrame - 1, 3 * maxFrame} {
			if err := post.Send(fmt.Sprint(n), bytes.Repeat([]byte{'x'}, n)); err != nil {
				fmt.Println(err)
				return 1
			}
		}
	case "code":
		fmt.Print("seven")
		return 7
	case "signal":
		_ = unix.Kill(os.Getpid(), unix.SIGTERM)
		select {}
	case "panic":
		_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	}
	return 0
}

// naps is how often fate sleeps for some microseconds.
const naps = 1000

// fate prints all that chance has a hand in: random bytes, the order of a map, how
// late timers are, who of several goroutines is first, the clocks.
func fate() {
	var b [16]byte
	_, _ = rand.Read(b[:])
	fmt.Printf("random %x\n", b)
	m := map[int]bool{}
	for i := range 100 {
		m[i] = true
	}
	for k := range m {
		fmt.Print(k, " ")
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	late := sha256.New()
	for g := range 8 {
		wg.Go(func() {
			for range 100 {
				began := time.Now()
				time.Sleep(time.Millisecond)
				took := time.Since(began)
				mu.Lock()
				fmt.Fprintln(late, g, took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// Where the clock jumps over idle time it can jump too far, once in some ten
	// thousand times without steady.go, and seldom with it.
	slept := sha256.New()
	for i := range naps {
		nap := unix.Timespec{Nsec: int64(20_000 + i*7919%9000)}
		_ = unix.Nanosleep(&nap, nil)
		fmt.Fprintln(slept, sinceStart())
	}
	fmt.Printf("\nnaps %x\ntimers %x\ntime %v, %v since the start\n", slept.Sum(nil), late.Sum(nil), time.Now().UTC(), sinceStart())
}

// load keeps both processors of a small machine busy until the test ends.
func load(t testing.TB) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					sha256.Sum256(make([]byte, 1<<16))
				}
			}
		})
	}
	t.Cleanup(func() { close(done); wg.Wait() })
}

func TestBoxHasTheSameFateOnABusyMachine(t *testing.T) {
	first, was, err := boxed(t, "fate", BoxConfig{Seed: 42})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v of virtual time in %v\n%s", was.Virtual, was.Wall, first)
	if !strings.Contains(first, "time 2026-01-01 00:00:0") {
		t.Errorf("the box does not start at %s:\n%s", boxEpoch, first)
	}
	load(t)
	again, is, err := boxed(t, "fate", BoxConfig{Seed: 42})
	if err != nil {
		t.Fatal(err)
	}
	if again != first || is.Virtual != was.Virtual {
		t.Errorf("on a busy machine (%v in %v) it said\n%s", is.Virtual, is.Wall, again)
	}
	other, _, err := boxed(t, "fate", BoxConfig{Seed: 43})
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(other, first[:20]) {
		t.Error("another seed gives the same random bytes")
	}
}

func TestBoxSendsLetters(t *testing.T) {
	var got []string
	out, _, err := boxed(t, "letters", BoxConfig{Letter: func(name string, body []byte) error {
		got = append(got, fmt.Sprintf("%s:%d", name, len(body)))
		return nil
	}})
	if err != nil {
		t.Fatal(err, out)
	}
	want := fmt.Sprintf("[0:0 1:1 %d:%[1]d %d:%[2]d]", maxFrame-1, 3*maxFrame)
	if fmt.Sprint(got) != want {
		t.Errorf("letters %v, want %s", got, want)
	}
	full := errors.New("no room")
	_, _, err = boxed(t, "letters", BoxConfig{Letter: func(string, []byte) error { return full }})
	if !errors.Is(err, full) {
		t.Errorf("a letter that nobody can take ends the box with %v", err)
	}
}

func TestBoxGivesTheExitCode(t *testing.T) {
	for what, want := range map[string]int{"code": 7, "signal": 128 + int(unix.SIGTERM)} {
		out, res, err := boxed(t, what, BoxConfig{})
		if err != nil || res.Code != want {
			t.Errorf("%s: exit code %d, %v, want %d; it said %q", what, res.Code, err, want, out)
		}
	}
}

func TestBoxQuotesTheKernelThatPanics(t *testing.T) {
	_, _, err := boxed(t, "panic", BoxConfig{})
	if err == nil || !strings.Contains(err.Error(), "before its command did") || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("the error is %v", err)
	}
}

func TestBoxRefusesWhatCannotBe(t *testing.T) {
	for _, c := range []struct {
		cfg  BoxConfig
		want string
	}{
		{BoxConfig{}, "no command"},
		{BoxConfig{Argv: []string{"x"}, Shift: 11}, "shift 11: want 0 to 10"},
		{BoxConfig{Argv: []string{"x"}, Speed: 65}, "speed 65: want 1 to 64"},
		{BoxConfig{Argv: []string{"x"}, Memory: 1 << 20}, "memory 1 MiB is too little"},
	} {
		if _, err := RunBox(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want …%s…", c.cfg, err, c.want)
		}
	}
}

func TestLettersAreCutAndPutTogether(t *testing.T) {
	var frames bytes.Buffer
	p := &Post{out: &framer{w: &frames}}
	long := bytes.Repeat([]byte("0123456789"), maxFrame/4)
	for name, body := range map[string][]byte{"": nil, "short": []byte("x"), "long": long} {
		frames.Reset()
		if err := p.Send(name, body); err != nil {
			t.Fatal(err)
		}
		var r letterReader
		var got []byte
		taken := 0
		for in := bufio.NewReader(&frames); ; {
			kind, frame, err := readFrame(in)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || kind != frameLetter {
				t.Fatalf("%s: frame %q, %v", name, kind, err)
			}
			err = r.take(frame, func(n string, b []byte) error {
				if n != name {
					t.Errorf("letter %q came as %q", name, n)
				}
				got, taken = b, taken+1
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if taken != 1 || !bytes.Equal(got, body) {
			t.Errorf("%s: %d letters, the last of %d bytes, not of %d", name, taken, len(got), len(body))
		}
	}
	for _, frame := range [][]byte{nil, {0}, {0, 0}, {0, 5, 'a'}} {
		if (&letterReader{}).take(frame, nil) == nil {
			t.Errorf("frame %q is taken for part of a letter", frame)
		}
	}
}

func TestProgramsArePackedWithTheirLibraries(t *testing.T) {
	files, err := Programs(true, "sh", "no-such-program")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f.Path))
	}
	if all := strings.Join(names, " "); !strings.HasPrefix(all, "sh ") || !strings.Contains(all, "libc.so.6") || !strings.Contains(all, "ld-linux") {
		t.Errorf("sh is packed as %s", all)
	}
	if _, err := Programs(false, "no-such-program"); err == nil {
		t.Error("a program that is not there is packed")
	}
}
