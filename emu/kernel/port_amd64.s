#include "textflag.h"

// func outBytes(port uint16, p *byte, n int)
TEXT ·outBytes(SB), NOSPLIT, $0-24
	MOVWLZX port+0(FP), DX
	MOVQ    p+8(FP), SI
	MOVQ    n+16(FP), CX
	CLD
	REP
	OUTSB
	RET
