package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The handshake: the server greets, the client says what it can, and then asks
// for options until one of them begins the transmission.
const (
	helloMagic  = 0x4e42444d41474943 // "NBDMAGIC"
	optionMagic = 0x49484156454f5054 // "IHAVEOPT"
	answerMagic = 0x3e889045565a9

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optExportName = 1
	optAbort      = 2
	optList       = 3
	optInfo       = 6
	optGo         = 7

	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repUnsupported = 1<<31 + 1
	repInvalid     = 1<<31 + 3
	repTooBig      = 1<<31 + 9

	infoExport    = 0
	infoBlockSize = 3

	// transmissionFlags say: there are flags, flush, FUA, trim and write zeroes are
	// known.
	transmissionFlags = 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6

	// maxOption bounds an option's data: the longest is a name.
	maxOption = 8 << 10
)

// Block sizes, in bytes. A guest's sector is the least that it reads or writes.
const (
	leastBlock = 512
	bestBlock  = 4096
)

// negotiate goes through the handshake. Whatever export the client names is the
// one that there is.
func negotiate(in io.Reader, out io.Writer, size int64) error {
	hello := binary.BigEndian.AppendUint64(nil, helloMagic)
	hello = binary.BigEndian.AppendUint64(hello, optionMagic)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if _, err := out.Write(hello); err != nil {
		return err
	}
	var b [4]byte
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return err
	}
	can := binary.BigEndian.Uint32(b[:])
	if can&flagFixedNewstyle == 0 || can&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return fmt.Errorf("the client's flags are %#x", can)
	}
	for {
		opt, data, err := readOption(in)
		if err != nil {
			return err
		}
		if opt == optExportName {
			return exportByName(out, size, can&flagNoZeroes != 0)
		}
		if err := answerOption(out, opt, data, size); err != nil {
			return err
		}
		if _, err := exportName(data); opt == optGo && err == nil {
			return nil
		}
		if opt == optAbort {
			return errBye
		}
	}
}

// readOption reads what the client asks for. Data that is too long is nil.
func readOption(in io.Reader) (opt uint32, data []byte, err error) {
	var b [16]byte
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return 0, nil, err
	}
	if magic := binary.BigEndian.Uint64(b[:]); magic != optionMagic {
		return 0, nil, fmt.Errorf("option begins with %#x: want %#x", magic, uint64(optionMagic))
	}
	opt = binary.BigEndian.Uint32(b[8:])
	n := binary.BigEndian.Uint32(b[12:])
	if n > maxOption {
		_, err := io.CopyN(io.Discard, in, int64(n))
		return opt, nil, err
	}
	data = make([]byte, n)
	_, err = io.ReadFull(in, data)
	return opt, data, err
}

// exportByName begins the transmission in the oldest way.
func exportByName(out io.Writer, size int64, short bool) error {
	b := binary.BigEndian.AppendUint64(nil, uint64(size))
	b = binary.BigEndian.AppendUint16(b, transmissionFlags)
	if !short {
		b = append(b, make([]byte, 124)...)
	}
	_, err := out.Write(b)
	return err
}

// answerOption answers any other option.
func answerOption(out io.Writer, opt uint32, data []byte, size int64) error {
	var b []byte
	switch {
	case data == nil:
		b = appendAnswer(b, opt, repTooBig, nil)
	case opt == optAbort:
		b = appendAnswer(b, opt, repAck, nil)
	case opt == optList:
		b = appendAnswer(b, opt, repServer, make([]byte, 4)) // a name without letters
		b = appendAnswer(b, opt, repAck, nil)
	case opt == optInfo || opt == optGo:
		if _, err := exportName(data); err != nil {
			b = appendAnswer(b, opt, repInvalid, []byte(err.Error()))
			break
		}
		export := binary.BigEndian.AppendUint16(nil, infoExport)
		export = binary.BigEndian.AppendUint64(export, uint64(size))
		export = binary.BigEndian.AppendUint16(export, transmissionFlags)
		blocks := binary.BigEndian.AppendUint16(nil, infoBlockSize)
		for _, n := range []uint32{leastBlock, bestBlock, maxPayload} {
			blocks = binary.BigEndian.AppendUint32(blocks, n)
		}
		b = appendAnswer(b, opt, repInfo, export)
		b = appendAnswer(b, opt, repInfo, blocks)
		b = appendAnswer(b, opt, repAck, nil)
	default: // structured replies, TLS …
		b = appendAnswer(b, opt, repUnsupported, nil)
	}
	_, err := out.Write(b)
	return err
}

// exportName reads the data of the options info and go: a name, and which
// information is asked for.
func exportName(data []byte) (string, error) {
	if len(data) < 6 {
		return "", errors.New("an option without a name")
	}
	n := binary.BigEndian.Uint32(data)
	if uint64(n) > uint64(len(data)-6) {
		return "", fmt.Errorf("a name of %d bytes in %d", n, len(data))
	}
	name, rest := data[4:4+n], data[4+n:]
	if wanted := int(binary.BigEndian.Uint16(rest)); len(rest) != 2+2*wanted {
		return "", fmt.Errorf("%d kinds of information in %d bytes", wanted, len(rest)-2)
	}
	return string(name), nil
}

func appendAnswer(b []byte, opt, kind uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, answerMagic)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}
