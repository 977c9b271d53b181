package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows how far a long command is: one line that is rewritten on a
// terminal, a line a phase elsewhere.
type progress struct {
	w     io.Writer
	fd    int
	tty   bool
	began time.Time

	mu    sync.Mutex
	phase string
	drawn int // characters on the terminal's line
	tick  *time.Ticker
	done  chan struct{}
	wg    sync.WaitGroup
	line  func() string
}

func newProgress(f *os.File) *progress {
	p := &progress{w: f, fd: int(f.Fd()), tty: term.IsTerminal(int(f.Fd())), began: time.Now(), done: make(chan struct{})}
	if p.tty {
		p.tick = time.NewTicker(200 * time.Millisecond)
		p.wg.Add(1)
		go func() { // keeps the elapsed time moving; ends with end
			defer p.wg.Done()
			for {
				select {
				case <-p.tick.C:
					p.mu.Lock()
					p.draw()
					p.mu.Unlock()
				case <-p.done:
					return
				}
			}
		}()
	}
	return p
}

func (p *progress) elapsed() time.Duration { return time.Since(p.began).Round(100 * time.Millisecond) }

// step says that phase is at done of total parts; 0 of 0: it has none.
func (p *progress) step(phase string, done, total int) {
	count := ""
	if total > 0 {
		count = fmt.Sprintf(" %d/%d", done, total)
	}
	p.show(phase, phase+count, 0)
}

// show replaces the line. Off a terminal a line is printed only when key
// changes. remaining is an estimate; 0: none.
func (p *progress) show(key, text string, remaining time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := key != p.phase
	p.phase = key
	p.line = func() string {
		s := fmt.Sprintf("%6v  %s", p.elapsed(), text)
		if remaining > 0 {
			s += fmt.Sprintf("  (about %v left)", remaining.Round(time.Second))
		}
		return s
	}
	switch {
	case p.tty:
		p.draw()
	case changed:
		fmt.Fprintln(p.w, p.line())
	}
}

// note prints a line that stays.
func (p *progress) note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintln(p.w, text)
	if p.tty {
		p.draw()
	}
}

// draw writes the line over the last one. The caller holds p.mu.
func (p *progress) draw() {
	if p.line == nil {
		return
	}
	s := p.line()
	if width, _, err := term.GetSize(p.fd); err == nil && width > 1 { // a line that wraps cannot be rewritten
		if r := []rune(s); len(r) >= width {
			s = string(r[:width-1])
		}
	}
	pad := max(0, p.drawn-len(s))
	fmt.Fprintf(p.w, "\r%s%s", s, strings.Repeat(" ", pad))
	p.drawn = len(s)
}

func (p *progress) clear() {
	if p.tty && p.drawn > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.drawn))
		p.drawn = 0
	}
}

// end takes the line away.
func (p *progress) end() {
	if p.tty {
		p.tick.Stop()
		close(p.done)
		p.wg.Wait()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}
