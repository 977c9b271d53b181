package kernel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// run boots a kernel, User Mode Linux if nothing else is said, and runs a shell
// script inside.
func run(t *testing.T, cfg Config, stdin io.Reader, script string) (code int, stdout, stderr string) {
	t.Helper()
	if cfg.Substrate == "" {
		cfg.Substrate = UML
	}
	needKernel(t, cfg.Substrate)
	if cfg.Memory == 0 {
		cfg.Memory = smallMemory(cfg.Substrate)
	}
	var out, errs bytes.Buffer
	code, err := Exec(t.Context(), cfg, []string{"sh", "-c", script}, append(os.Environ(), "COLOUR=blue"), stdin, &out, &errs)
	if err != nil {
		t.Fatalf("%v\nstdout: %s\nstderr: %s", err, &out, &errs)
	}
	return code, out.String(), errs.String()
}

func TestExecStreamsAndCode(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs := run(t, Config{Lab: "box"}, strings.NewReader("some input\n"),
		`cat; pwd; echo $COLOUR $VPCLAB_INSIDE $(id -u) $(hostname); echo oops >&2; (sleep 1000 &) ; exit 7`)
	if want := "some input\n" + dir + "\nblue uml 0 box\n"; out != want {
		t.Errorf("stdout %q, want %q", out, want)
	}
	if errs != "oops\n" {
		t.Errorf("stderr %q", errs)
	}
	if code != 7 {
		t.Errorf("code %d, want 7", code)
	}
}

func TestExecFiles(t *testing.T) {
	dir := t.TempDir() // below /tmp, which is empty inside but for what is asked for
	if err := os.WriteFile(filepath.Join(dir, "host"), []byte("seen\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `
cat ` + dir + `/host
echo made > ` + dir + `/made && echo can write there
touch /etc/vpclab-was-here 2>/dev/null || echo cannot write elsewhere
echo x > /tmp/x && echo x > /run/x && echo x > /dev/shm/x && echo scratch is writable
ls -d /tmp/vpclab-exec-secret* 2>/dev/null || echo tmp is private
`
	f, err := os.CreateTemp("/tmp", "vpclab-exec-secret")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	code, out, errs := run(t, Config{Writable: []string{dir}}, nil, script)
	want := "seen\ncan write there\ncannot write elsewhere\nscratch is writable\ntmp is private\n"
	if code != 0 || out != want {
		t.Errorf("code %d, stdout:\n%swant:\n%sstderr: %s", code, out, want, errs)
	}
	if made, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(made) != "made\n" {
		t.Errorf("on the host: %q, %v", made, err)
	}
}

func TestExecManyBytes(t *testing.T) {
	const n = 3 << 20
	code, out, _ := run(t, Config{}, io.LimitReader(zeros{}, n), `wc -c; head -c 3145728 /dev/zero`)
	if want := "3145728\n"; code != 0 || !strings.HasPrefix(out, want) || len(out) != len(want)+n {
		t.Errorf("code %d, %d bytes beginning %.12q", code, len(out), out)
	}
}

// syncWriter calls back when it has seen the word.
type syncWriter struct {
	word string
	got  bytes.Buffer
	seen func()
}

func (w *syncWriter) Write(p []byte) (int, error) {
	w.got.Write(p)
	if w.seen != nil && strings.Contains(w.got.String(), w.word) {
		w.seen()
		w.seen = nil
	}
	return len(p), nil
}

func TestExecForwardsSignals(t *testing.T) {
	needUML(t)
	out := &syncWriter{word: "waiting", seen: func() { _ = unix.Kill(os.Getpid(), unix.SIGUSR1) }}
	code, err := Exec(t.Context(), Config{Substrate: UML, Memory: 256 << 20},
		[]string{"sh", "-c", `trap 'echo got it; exit 5' USR1; echo waiting; while :; do sleep 0.1; done`}, os.Environ(), nil, out, os.Stderr)
	if err != nil || code != 5 || !strings.Contains(out.got.String(), "got it") {
		t.Errorf("code %d, %v, output %q", code, err, out.got.String())
	}
}

func TestExecKilledBySignalInside(t *testing.T) {
	if code, _, _ := run(t, Config{}, nil, `kill -TERM $$`); code != 128+15 {
		t.Errorf("code %d, want %d", code, 128+15)
	}
}

func TestExecCancelled(t *testing.T) {
	needUML(t)
	ctx, cancel := context.WithCancel(t.Context())
	out := &syncWriter{word: "waiting", seen: cancel}
	code, err := Exec(ctx, Config{Substrate: UML, Memory: 256 << 20},
		[]string{"sh", "-c", `echo waiting; exec sleep 1000`}, os.Environ(), nil, out, os.Stderr)
	if err != nil || code != 128+15 {
		t.Errorf("code %d, %v; want the command terminated", code, err)
	}
}

// A command that takes all memory is killed; the kernel and its channel live.
func TestExecOutOfMemory(t *testing.T) {
	code, out, _ := run(t, Config{Memory: 160 << 20}, nil, `tail /dev/zero; echo tail gave $?`)
	if code != 0 || out != "tail gave 137\n" {
		t.Errorf("code %d, output %q; want tail killed and the shell alive", code, out)
	}
}

func TestExecPanicMidway(t *testing.T) {
	needUML(t)
	_, err := Exec(t.Context(), Config{Substrate: UML, Memory: 192 << 20},
		[]string{"sh", "-c", "echo c > /proc/sysrq-trigger"}, os.Environ(), nil, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("got %v, want word of the panic", err)
	}
}

func TestExecNotFound(t *testing.T) {
	needUML(t)
	_, err := Exec(t.Context(), Config{Substrate: UML, Memory: 192 << 20},
		[]string{"no-such-command"}, os.Environ(), nil, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("got %v", err)
	}
}

func TestFramesKeepKindsApart(t *testing.T) {
	var wire bytes.Buffer
	f := &framer{w: &wire}
	big := bytes.Repeat([]byte("ab"), maxFrame)
	if _, err := f.stream(frameOut).Write(big); err != nil {
		t.Fatal(err)
	}
	if err := f.send(frameSignal, []byte{2}); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(&wire)
	var got []byte
	for {
		kind, body, err := readFrame(r)
		if err != nil {
			t.Fatal(err)
		}
		if kind == frameSignal {
			break
		}
		got = append(got, body...)
	}
	if !bytes.Equal(got, big) {
		t.Errorf("%d bytes came of %d", len(got), len(big))
	}
	if _, _, err := readFrame(r); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: %v", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("1\x00\x00\x00\x05hello"))
	f.Add([]byte("x\xff\xff\xff\xff"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, wire []byte) {
		kind, body, err := readFrame(bufio.NewReader(bytes.NewReader(wire)))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := (&framer{w: &again}).send(kind, body); err != nil || !bytes.HasPrefix(wire, again.Bytes()) {
			t.Errorf("%q reads as %q %q", wire, kind, body)
		}
	})
}

// Floors of the benchmarks: what Debian's User Mode Linux 6.1 gives by itself on
// a quiet machine with two cores, to a bare program at either end of the line
// and with the kernel's own start left as it is.
const (
	floorBoot       = 1400 * time.Millisecond
	floorThroughput = 150e6 // bytes per second
	floorRoundTrip  = 100 * time.Microsecond
)

// benchKernels does a benchmark for each kind of kernel; the floors are those of
// User Mode Linux, for both.
func benchKernels(b *testing.B, bench func(b *testing.B, s Substrate)) {
	for _, s := range []Substrate{UML, QEMU} {
		b.Run(string(s), func(b *testing.B) {
			needKernel(b, s)
			bench(b, s)
		})
	}
}

func BenchmarkBoot(b *testing.B) {
	benchKernels(b, func(b *testing.B, s Substrate) {
		for b.Loop() {
			m, err := Start(b.Context(), Config{Substrate: s, Memory: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(m.BootTime)/float64(floorBoot), "x-floor")
			if err := m.Stop(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkChannelOut(b *testing.B) {
	benchKernels(b, func(b *testing.B, s Substrate) { benchThroughput(b, s, "source", 64<<20) })
}

func BenchmarkChannelIn(b *testing.B) {
	benchKernels(b, func(b *testing.B, s Substrate) { benchThroughput(b, s, "sink", 4<<20) })
}

// benchThroughput moves size bytes through one connection.
func benchThroughput(b *testing.B, s Substrate, word string, size int64) {
	m := boot(b, Config{Substrate: s})
	b.SetBytes(size)
	for b.Loop() {
		conn := ask(b, m, word)
		if err := binary.Write(conn, binary.BigEndian, uint64(size)); err != nil {
			b.Fatal(err)
		}
		var err error
		if word == "source" {
			_, err = io.CopyN(io.Discard, conn, size)
		} else if _, err = io.CopyN(conn, zeros{}, size); err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds()/floorThroughput, "x-floor")
}

func BenchmarkRoundTrip(b *testing.B) {
	benchKernels(b, func(b *testing.B, s Substrate) {
		m := boot(b, Config{Substrate: s})
		conn := ask(b, m, "echo")
		buf := make([]byte, 64)
		for b.Loop() {
			if _, err := conn.Write(buf); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(conn, buf); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(floorRoundTrip), "x-floor")
	})
}
