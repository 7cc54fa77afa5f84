package cpu
import ("testing";"math/rand";"math";"surgeon/engine/device")
func TestSmoke(t *testing.T){
 d:=Open(); r:=rand.New(rand.NewSource(1))
 mk:=func(a,b int)device.Tensor{x:=make([]float64,a*b);for i:=range x{x[i]=r.NormFloat64()};return device.NewFrom(d,x,a,b,device.F64)}
 for _,h:=range []device.Heads{{Length:7,Query:4,KeyValue:2,Dim:4,Scale:.5},{Length:7,Query:2,KeyValue:2,Dim:4,Scale:.5,Window:3},{Length:300,Query:2,KeyValue:1,Dim:2,Scale:.5,Window:150}} {
  N:=2*h.Length
  q,k,v,dout:=mk(N,h.Query*h.Dim),mk(N,h.KeyValue*h.Dim),mk(N,h.KeyValue*h.Dim),mk(N,h.Query*h.Dim)
  out,lse:=mk(N,h.Query*h.Dim),mk(N,h.Query)
  dq,dk,dv:=mk(N,h.Query*h.Dim),mk(N,h.KeyValue*h.Dim),mk(N,h.KeyValue*h.Dim)
  f:=func()float64{d.Attention(h,q,k,v,out,lse);a,b:=device.DownloadSlice[float64](d,out),device.DownloadSlice[float64](d,dout);s:=0.;for i:=range a{s+=a[i]*b[i]};return s}
  f(); d.AttentionBackward(h,q,k,v,out,lse,dout,dq,dk,dv)
  for _,p:=range [][2]device.Tensor{{q,dq},{k,dk},{v,dv}} {
   x:=elements[float64](d,p[0]);g:=elements[float64](d,p[1])
   for n:=0;n<20;n++{i:=r.Intn(len(x));o:=x[i];x[i]=o+1e-5;a:=f();x[i]=o-1e-5;b:=f();x[i]=o
    if e:=(a-b)/2e-5;math.Abs(e-g[i])>1e-7{t.Errorf("%v %d: %g %g",h,i,e,g[i])}}
  }
 }
 n:=300
 a:=mk(n,n); s:=device.AllocSym(d,n,device.F64); d.Gram(1,a,0,s); m:=d.Alloc(n,n,device.F64); d.Extract(s,nil,nil,m); d.AddDiagonal(1,m)
 m0:=d.Alloc(n,n,device.F64); d.Copy(m,m0)
 if !d.Cholesky(m)[0]{t.Fatal()}
 b:=mk(n,n); b0:=d.Alloc(n,n,device.F64); d.Copy(b,b0); d.CholeskySolve(device.Left,m,b); d.Gemm(false,false,-1,m0,b,1,b0)
 for i,v:=range elements[float64](d,b0){if math.Abs(v)>1e-8{t.Fatal(i,v)}}
 I:=d.Alloc(n,n,device.F64); d.Zero(I); d.AddDiagonal(1,I); d.CholeskySolve(device.Right,m,I); dd:=d.Alloc(1,n,device.F64); d.CholeskyInverseDiag([]device.Tensor{m},[]device.Tensor{dd})
 for i,v:=range elements[float64](d,dd){if math.Abs(v-elements[float64](d,I)[i*n+i])>1e-8{t.Fatal(i,v)}}
 x:=d.Alloc(5,9,device.BF16); d.Copy(mk(5,9),x); y:=d.Alloc(5,9,device.BF16); d.RMSNorm(x,x.Slice(0,1),1e-5,y)
 for x:=-110.;x<95;x+=.001{ e:=exp32(float32(x)); w:=math.Exp(float64(float32(x))); if u:=math.Abs(float64(e)-w)/float64(math.Nextafter32(float32(w),1e38)-float32(w)); u>.6 && !math.IsInf(float64(e),0) {t.Fatal(x,e,w,u)}}
}
