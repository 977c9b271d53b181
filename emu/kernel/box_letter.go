package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A letter has a name and a body of any length. On the way out it is cut into
// frames: the length of the name in two bytes, big end first, the name, one byte
// that is 1 in the last frame of the letter, and a part of the body.

// Post is how a command in a closed box sends letters to who runs the box.
type Post struct {
	mu  sync.Mutex
	out *framer
}

// OpenPost finds the way out; the command of a box calls it once, at its start.
func OpenPost() (*Post, error) {
	if os.Getenv(EnvKernel) != string(QEMU) {
		return nil, errors.New("post: this is no closed box")
	}
	unix.CloseOnExec(boxPost) // whoever else holds it keeps the box from ending
	return &Post{out: &framer{w: os.NewFile(boxPost, "post")}}, nil
}

// Send sends one letter. When it returns the letter is outside, or as good as
// there: nothing but the end of the machine can stop it.
func (p *Post) Send(name string, body []byte) error {
	head := append(binary.BigEndian.AppendUint16(nil, uint16(len(name))), name...)
	room := maxFrame - len(head) - 1
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		n := min(len(body), room)
		last := byte(0)
		if n == len(body) {
			last = 1
		}
		frame := append(append(append([]byte(nil), head...), last), body[:n]...)
		if err := p.out.send(frameLetter, frame); err != nil {
			return fmt.Errorf("post: letter %s: %w", name, err)
		}
		if last == 1 {
			return nil
		}
		body = body[n:]
	}
}

// letterReader puts letters together again.
type letterReader struct{ body []byte }

// take reads one frame and hands the letter over when it is whole.
func (r *letterReader) take(frame []byte, deliver func(name string, body []byte) error) error {
	if len(frame) < 2 || len(frame) < 2+int(binary.BigEndian.Uint16(frame))+1 {
		return fmt.Errorf("a letter's frame of %d bytes is too short", len(frame))
	}
	n := int(binary.BigEndian.Uint16(frame))
	name, last, part := string(frame[2:2+n]), frame[2+n], frame[2+n+1:]
	r.body = append(r.body, part...)
	if last == 0 {
		return nil
	}
	body := r.body
	r.body = nil
	if deliver == nil {
		return nil
	}
	if err := deliver(name, body); err != nil {
		return fmt.Errorf("letter %s: %w", name, err)
	}
	return nil
}
