package device

// CheckEmbed checks the arguments of Embed.
func CheckEmbed(table Tensor, ids []int32, x Tensor) {
	o, at, ax := op("Embed"), arg{"table", table}, arg{"x", x}
	o.valid(at)
	o.indices("ids", ids, table.Rows)
	o.is(ax, len(ids), table.Cols, table.Type)
	o.apart(ax, at)
}

// CheckLinear checks the arguments of Linear.
func CheckLinear(x, w, b, y Tensor) {
	o, ax, aw, ab, ay := op("Linear"), arg{"x", x}, arg{"w", w}, arg{"b", b}, arg{"y", y}
	o.typed(ax, aw)
	o.valid(ax)
	o.need(w.Cols == x.Cols, aw, ax, "want equally many columns")
	o.is(ab, 1, w.Rows, x.Type)
	o.is(ay, x.Rows, w.Rows, x.Type)
	o.apart(ay, ax, aw, ab)
}

// CheckRMSNorm checks the arguments of RMSNorm.
func CheckRMSNorm(x, gain, y Tensor) {
	op("RMSNorm").norm(arg{"x", x}, arg{"y", y}, arg{"gain", gain})
}

// CheckLayerNorm checks the arguments of LayerNorm.
func CheckLayerNorm(x, gain, bias, y Tensor) {
	op("LayerNorm").norm(arg{"x", x}, arg{"y", y}, arg{"gain", gain}, arg{"bias", bias})
}

func (o op) norm(x, y arg, rows ...arg) {
	o.like(x, y)
	o.inPlace(y, x)
	for _, r := range rows {
		o.is(r, 1, x.Cols, x.Type)
		o.apart(y, r)
	}
}

// CheckRMSNormBackward checks the arguments of RMSNormBackward.
func CheckRMSNormBackward(x, gain, dy, dx Tensor) {
	op("RMSNormBackward").normBackward(x, gain, dy, dx)
}

// CheckLayerNormBackward checks the arguments of LayerNormBackward.
func CheckLayerNormBackward(x, gain, dy, dx Tensor) {
	op("LayerNormBackward").normBackward(x, gain, dy, dx)
}

func (o op) normBackward(x, gain, dy, dx Tensor) {
	ax, ag, ady, adx := arg{"x", x}, arg{"gain", gain}, arg{"dy", dy}, arg{"dx", dx}
	o.like(ax, ady, adx)
	o.is(ag, 1, x.Cols, x.Type)
	o.apart(adx, ax, ag)
	o.inPlace(adx, ady)
}

// CheckRope checks the arguments of Rope.
func CheckRope(cos, sin, x Tensor) {
	o, ac, as, ax := op("Rope"), arg{"cos", cos}, arg{"sin", sin}, arg{"x", x}
	o.valid(ax)
	o.like(ac, as)
	o.need(cos.Type == x.Type.Acc(), ac, ax, "cos must have the type in which sums are kept")
	if cos.Rows == 0 || cos.Cols == 0 {
		o.fail("%v is empty", ac)
	}
	o.need(x.Rows%cos.Rows == 0, ax, ac, "the rows of x are not whole sequences")
	o.need(x.Cols%(2*cos.Cols) == 0, ax, ac, "the columns of x are not whole heads")
	o.apart(ax, ac, as)
}

func (o op) heads(h Heads, q, k, v, out, lse arg) {
	if h.Length <= 0 || h.Query <= 0 || h.KeyValue <= 0 || h.Dim <= 0 || h.Window < 0 || h.Query%h.KeyValue != 0 {
		o.fail("%+v is no shape of an attention", h)
	}
	o.valid(q)
	o.is(q, q.Rows, h.Query*h.Dim, q.Type)
	if q.Rows%h.Length != 0 {
		o.fail("%v is not a number of whole sequences of %d", q, h.Length)
	}
	o.is(k, q.Rows, h.KeyValue*h.Dim, q.Type)
	o.like(k, v)
	o.like(q, out)
	if !lse.IsZero() {
		o.is(lse, q.Rows, h.Query, q.Type.Acc())
	}
}

// CheckAttention checks the arguments of Attention.
func CheckAttention(h Heads, q, k, v, out, lse Tensor) {
	o, aq, ak, av := op("Attention"), arg{"q", q}, arg{"k", k}, arg{"v", v}
	aout, alse := arg{"out", out}, arg{"lse", lse}
	o.heads(h, aq, ak, av, aout, alse)
	o.apart(aout, aq, ak, av, alse)
	o.apart(alse, aq, ak, av)
}

// CheckAttentionBackward checks the arguments of AttentionBackward.
func CheckAttentionBackward(h Heads, q, k, v, out, lse, dout, dq, dk, dv Tensor) {
	o, aq, ak, av := op("AttentionBackward"), arg{"q", q}, arg{"k", k}, arg{"v", v}
	aout, alse, adout := arg{"out", out}, arg{"lse", lse}, arg{"dout", dout}
	adq, adk, adv := arg{"dq", dq}, arg{"dk", dk}, arg{"dv", dv}
	o.heads(h, aq, ak, av, aout, alse)
	if lse.IsZero() {
		o.fail("there is no lse; Attention must be given one where a backward pass follows")
	}
	o.like(aq, adout, adq)
	o.like(ak, adk, adv)
	o.apart(adq, aq, ak, av, aout, alse, adout, adk, adv)
	o.apart(adk, aq, ak, av, aout, alse, adout, adv)
	o.apart(adv, aq, ak, av, aout, alse, adout)
}

// CheckSwiGLU checks the arguments of SwiGLU.
func CheckSwiGLU(gate, up, y Tensor) {
	o, ag, au, ay := op("SwiGLU"), arg{"gate", gate}, arg{"up", up}, arg{"y", y}
	o.like(ag, au, ay)
	o.inPlace(ay, ag, au)
}

// CheckSwiGLUBackward checks the arguments of SwiGLUBackward.
func CheckSwiGLUBackward(gate, up, dy, dgate, dup Tensor) {
	o, ag, au, ady := op("SwiGLUBackward"), arg{"gate", gate}, arg{"up", up}, arg{"dy", dy}
	adg, adu := arg{"dgate", dgate}, arg{"dup", dup}
	o.like(ag, au, ady, adg, adu)
	o.inPlace(adg, ag)
	o.inPlace(adu, au)
	o.apart(adg, au, ady, adu)
	o.apart(adu, ag, ady)
}

// CheckReLU checks the arguments of ReLU.
func CheckReLU(x, y Tensor) {
	o, ax, ay := op("ReLU"), arg{"x", x}, arg{"y", y}
	o.like(ax, ay)
	o.inPlace(ay, ax)
}

// CheckReLUBackward checks the arguments of ReLUBackward.
func CheckReLUBackward(y, dy, dx Tensor) {
	o, ay, ady, adx := op("ReLUBackward"), arg{"y", y}, arg{"dy", dy}, arg{"dx", dx}
	o.like(ay, ady, adx)
	o.inPlace(adx, ay, ady)
}

// CheckCrossEntropy checks the arguments of CrossEntropy.
func CheckCrossEntropy(logits Tensor, targets []int32, losses Tensor) {
	o, al, as := op("CrossEntropy"), arg{"logits", logits}, arg{"losses", losses}
	o.valid(al)
	if len(targets) != logits.Rows {
		o.fail("%d targets for %v", len(targets), al)
	}
	for i, t := range targets {
		if t < -1 || int(t) >= logits.Cols {
			o.fail("targets[%d] is %d, want -1 to %d", i, t, logits.Cols-1)
		}
	}
	o.is(as, 1, logits.Rows, logits.Type.Acc())
	o.apart(as, al)
}

// CheckSample checks the arguments of Sample.
func CheckSample(logits Tensor, uniform []float64, ids []int32) {
	o, al := op("Sample"), arg{"logits", logits}
	o.valid(al)
	if len(uniform) != logits.Rows || len(ids) != logits.Rows {
		o.fail("%d numbers and %d ids for %v", len(uniform), len(ids), al)
	}
	if logits.Rows > 0 && logits.Cols == 0 {
		o.fail("%v has nothing to draw from", al)
	}
	for i, u := range uniform {
		if !(u >= 0 && u < 1) {
			o.fail("uniform[%d] is %v, want 0 or more and less than 1", i, u)
		}
	}
}
