package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Error is one message that the kernel refused. errors.Is(err, unix.EEXIST)
// and the like work on it.
type Error struct {
	Index  int        // of the message in its Batch
	Object string     // what was being done to which object
	Errno  unix.Errno // why, as a number
	Text   string     // why, in the kernel's words (extended acknowledgement); often empty
}

func (e *Error) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("%s: %v", e.Object, e.Errno)
	}
	return fmt.Sprintf("%s: %v (%s)", e.Object, e.Errno, e.Text)
}

func (e *Error) Unwrap() error { return e.Errno }

// shown is how many refusals of one batch are put into words.
const shown = 8

// join makes one error of the refusals of a batch, nil if there are none.
func join(refused []*Error) error {
	if len(refused) == 0 {
		return nil
	}
	var errs []error
	for i, e := range refused {
		if i == shown {
			errs = append(errs, fmt.Errorf("and %d more", len(refused)-shown))
			break
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// Flags and attributes of an acknowledgement, see netlink(7).
const (
	flagCapped  = 0x100 // NLM_F_CAPPED: the refused message is not repeated
	flagAckTLVs = 0x200 // NLM_F_ACK_TLVS: attributes follow
	attrAckMsg  = 1     // NLMSGERR_ATTR_MSG
)

// parseAck takes an NLMSG_ERROR apart: the errno (0: success) and the text.
func parseAck(flags uint16, payload []byte) (unix.Errno, string) {
	if len(payload) < 4+unix.SizeofNlMsghdr {
		return unix.EPROTO, "short acknowledgement"
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(payload)))
	if flags&flagAckTLVs == 0 {
		return errno, ""
	}
	rest := payload[4:]
	skip := unix.SizeofNlMsghdr
	if flags&flagCapped == 0 {
		skip = int(binary.NativeEndian.Uint32(rest))
		skip = (skip + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
	}
	if skip > len(rest) {
		return errno, ""
	}
	text := ""
	attrs(rest, skip, func(typ uint16, v []byte) {
		if typ == attrAckMsg {
			text = cstring(v)
		}
	})
	return errno, text
}
