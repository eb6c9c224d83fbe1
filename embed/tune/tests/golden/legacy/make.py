# A checkpoint of PyTorch's form before 1.6, written without PyTorch: a [2, 3] f32 tensor, its transpose as a view, an i64 scalar.
import pickle,struct,sys,types,collections
torch=types.ModuleType('torch'); utils=types.ModuleType('torch._utils')
def _rebuild_tensor_v2(*a): pass
_rebuild_tensor_v2.__module__='torch._utils'; _rebuild_tensor_v2.__qualname__='_rebuild_tensor_v2'; utils._rebuild_tensor_v2=_rebuild_tensor_v2
class FloatStorage: pass
class LongStorage: pass
for c in (FloatStorage,LongStorage): c.__module__='torch'; c.__qualname__=c.__name__; setattr(torch,c.__name__,c)
sys.modules['torch']=torch; sys.modules['torch._utils']=utils
class St:
    def __init__(s,cls,key,n): s.cls,s.key,s.n=cls,key,n
class T:
    def __init__(s,st,off,shape,strides): s.a=(st,off,shape,strides,False,collections.OrderedDict())
    def __reduce__(s): return (_rebuild_tensor_v2,s.a)
class P(pickle.Pickler):
    def persistent_id(s,o):
        if isinstance(o,St): return ('storage',o.cls,o.key,'cpu',o.n,None)
f=open('legacy.pth','wb')
pickle.dump(0x1950a86a20f9469cfc6c,f,2); pickle.dump(1001,f,2); pickle.dump({'protocol_version':1001,'little_endian':True,'type_sizes':{'short':2,'int':4,'long':4}},f,2)
a=St(FloatStorage,'94001',6); b=St(LongStorage,'94002',1)
P(f,2).dump(collections.OrderedDict([('weight',T(a,0,(2,3),(3,1))),('turned',T(a,0,(3,2),(1,3))),('part',T(a,4,(2,),(1,))),('count',T(b,0,(),()))]))
pickle.dump(['94001','94002'],f,2)
f.write(struct.pack('<q6f',6,1,2,3,4,5,6.5)); f.write(struct.pack('<qq',1,7)); f.close()
