package frr

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// bfdd is FRR's BFD, which no router of a lab runs: tests hold package bfd
// against it.
const bfdd = "bfdd"

// BFDVerb is the verb of the test binary that RunBFDD is the body of.
const BFDVerb = "frr-bfdd"

// RunBFDD runs zebra and bfdd in this process's network namespace, in the manner
// of RunRouter: it is process 1 of a PID namespace and has mounts of its own. Of
// each line of in bfdd is told the commands, split at semicolons, in its
// configuration mode; a line that begins with "show" is asked, and the answer
// goes to out as one line. So do changes of sessions, as "state", the time in
// nanoseconds on the time line, and what bfdd says.
func RunBFDD(ctx context.Context, root, dir string, in io.Reader, out io.Writer) error {
	install := at(root)
	if install == nil || !isProgram(filepath.Join(install.Daemons, bfdd)) {
		return &Missing{bfdd + " is not below " + root}
	}
	if err := errors.Join(furnish(install, dir), settleIn(root, dir)); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// It looks for its control socket here, and no option of 8.4's tells all of
	// it otherwise.
	if err := errors.Join(os.MkdirAll("/run/frr", 0o755), unix.Mount("tmpfs", "/run/frr", "tmpfs", 0, "")); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM)
	defer stop()
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, format+"\n", args...)
	}
	z, err := startDaemon(ctx, install, dir, zebra, func(string) {})
	if err != nil {
		return err
	}
	defer z.kill()
	d, err := startDaemon(ctx, install, dir, bfdd, func(line string) {
		if _, what, is := strings.Cut(line, "state-change: "); is {
			say("state %d %s", event.Now(), what)
		}
	})
	if err != nil {
		return err
	}
	defer d.kill()
	if err := d.conf.configure(ctx, []string{"log stdout debugging", "debug bfd peer"}); err != nil {
		return err
	}
	say("ready")
	for lines := bufio.NewScanner(in); lines.Scan(); {
		line := lines.Text()
		switch {
		case line == "die": // without a word to anybody
			d.kill()
			say("dead %d", event.Now())
		case strings.HasPrefix(line, "show"):
			texts, err := d.question(ctx, line)
			if err != nil {
				return err
			}
			say("answer %s", oneLine(texts[0]))
		default:
			if err := d.conf.configure(ctx, strings.Split(line, ";")); err != nil {
				return err
			}
			say("done")
		}
	}
	return nil
}
