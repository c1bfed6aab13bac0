"""The operators that TorchScript of a bundle may use: those whose result depends on their arguments, and that do nothing else.

None of them reads or writes a file, prints, starts a thread, waits, calls back into Python, changes a setting of the process, or
trusts indices that it does not check. An operator that works in place (``add_``) counts as the one that does not (``add``).
"""

_ARITHMETIC = """
abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh
asin asinh atan atan2 atanh baddbmm bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil
clamp clamp_max clamp_min clip copysign cos cosh deg2rad degrees digamma div divide divmod dot erf erfc erfinv exp exp2 expm1
fabs factorial fix float_power floor floor_divide floordiv fmax fmin fmod frac frexp gamma gcd hypot i0 igamma igammac lcm ldexp
lerp lgamma log log10 log1p log2 logaddexp logaddexp2 logit mathremainder maximum minimum modf mul multiply mvlgamma nan_to_num
neg negative nextafter polygamma positive pow rad2deg radians reciprocal remainder round rsqrt rsub sgn sigmoid sign signbit sin
sinc sinh sqrt square sub subtract tan tanh true_divide trunc xlogy special_bessel_j0 special_bessel_j1 special_bessel_y0
special_bessel_y1 special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit
special_expm1 special_gammainc special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p
special_log_ndtr special_log_softmax special_logit special_logsumexp special_modified_bessel_i0 special_modified_bessel_i1
special_modified_bessel_k0 special_modified_bessel_k1 special_multigammaln special_ndtr special_ndtri special_polygamma
special_psi special_round special_sinc special_softmax special_spherical_bessel_j0 special_xlog1py special_xlogy special_zeta
"""
_COMPARISON = """
all allclose any eq equal ge greater greater_equal gt heaviside is_complex is_conj is_contiguous is_floating_point is_neg
is_nonzero is_same_size is_signed isclose isfinite isin isinf isnan isneginf isposinf isreal le less less_equal logical_and
logical_not logical_or logical_xor lt ne not_equal where
"""
_COMPLEX = """
Complex ComplexImplicit adjoint chalf complex conj conj_physical imag mH mT matrix_H numpy_T polar real resolve_conj resolve_neg
view_as_complex view_as_complex_copy view_as_real view_as_real_copy
"""
_REDUCTION = """
amax amin aminmax argmax argmin argsort bincount bucketize corrcoef count_nonzero cov cummax cummin cumprod cumsum
cumulative_trapezoid diff gradient histc kthvalue logcumsumexp logsumexp max mean median min mode msort nanmean nanmedian
nanquantile nansum nonzero nonzero_numpy prod quantile searchsorted sort std std_mean sum sum_to_size topk trapezoid trapz
unique_consecutive unique_dim unique_dim_consecutive var var_mean
"""
_LINEAR_ALGEBRA = """
bmm cdist chain_matmul cholesky cholesky_inverse cholesky_solve cross det dist einsum frobenius_norm geqrf ger inner inverse kron
linalg_cholesky linalg_cholesky_ex linalg_cond linalg_cross linalg_det linalg_diagonal linalg_eig linalg_eigh linalg_eigvals
linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex linalg_ldl_factor linalg_ldl_factor_ex linalg_ldl_solve
linalg_lstsq linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_lu_solve linalg_matmul linalg_matrix_exp linalg_matrix_norm
linalg_matrix_power linalg_matrix_rank linalg_multi_dot linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve
linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals linalg_tensorinv linalg_tensorsolve linalg_vander linalg_vecdot
linalg_vector_norm logdet lu_solve lu_unpack matmul matrix_exp matrix_power mm mv norm nuclear_norm orgqr ormqr outer
pairwise_distance pdist pinverse qr renorm slogdet svd tensordot trace triangular_solve vander vdot _conj _linalg_det
_linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd
"""
_FOURIER = """
fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_ifftshift
fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn istft stft
bartlett_window blackman_window hamming_window hann_window kaiser_window
"""
_LAYERS = """
_convolution _convolution_mode _log_softmax _pad_circular _pad_enum _prelu_kernel _safe_softmax _softmax _trilinear
_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm __interpolate __upsample __upsample_bilinear __upsample_nearest adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator
alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear celu channel_shuffle col2im constant_pad_nd conv1d conv2d
conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution cosine_similarity dropout elu embedding
feature_alpha_dropout feature_dropout gelu glu grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell hardshrink
hardsigmoid hardswish hardtanh huber_loss im2col instance_norm l1_loss layer_norm leaky_relu linear log_sigmoid log_softmax lstm
lstm_cell max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
max_unpool3d mish mse_loss native_batch_norm native_dropout native_group_norm native_layer_norm native_norm norm_except_dim pad
pixel_shuffle pixel_unshuffle prelu reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 replication_pad1d
replication_pad2d replication_pad3d rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell rrelu scaled_dot_product_attention
selu silu smooth_l1_loss softmax softplus softshrink threshold upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
_SHAPE = """
_infer_size _reshape_alias _reshape_copy _shape_as_tensor _unsafe_view alias argwhere as_strided atleast_1d atleast_2d atleast_3d
block_diag broadcast_shapes broadcast_tensors broadcast_to cartesian_prod cat chunk column_stack combinations concat concatenate
contiguous dense_dim detach diag diag_embed diagflat diagonal diagonal_scatter dim dsplit dstack element_size expand expand_as
fill_diagonal flatten flip fliplr flipud gather hsplit hstack index index_add index_copy index_fill index_put index_reduce
index_select masked_fill masked_scatter masked_select meshgrid moveaxis movedim narrow narrow_copy numel one_hot pad_sequence
permute put ravel repeat repeat_interleave reshape reshape_as roll rot90 row_stack scatter scatter_add scatter_reduce select
select_scatter size slice slice_scatter split split_with_sizes squeeze stack storage_offset stride swapaxes swapdims t take
take_along_dim tensor_split tile transpose tril tril_indices triu triu_indices unbind unflatten unfold unsafe_chunk unsafe_split
unsafe_split_with_sizes unsqueeze view view_as vsplit vstack
"""
_MAKING = """
Bool Delete Float FloatImplicit Int IntImplicit ScalarImplicit Size _list_to_tensor _local_scalar_dense _tensor_to_list _to_copy
arange as_tensor bernoulli can_cast clone copy cpu cuda data device empty empty_like empty_permuted empty_strided eye fill full
full_like get_device is_grad_enabled item lift_fresh linspace logspace multinomial new_empty new_full new_ones new_zeros normal
ones ones_like promote_types rand rand_like randint randint_like randn randn_like randperm requires_grad result_type scalar_tensor
set_grad_enabled tensor to type_as zero zeros zeros_like
"""
_LANGUAGE = """
__and__ __contains__ __derive_index __getitem__ __is__ __isnot__ __lshift__ __not__ __or__ __range_length
__round_to_zero_floordiv __rshift__ __xor__ _set_item _unwrap_optional append capitalize center chr clear count dict endswith
extend find format get hash indices insert is_scripting isalnum isalpha isdecimal isdigit islower isupper items join keys len list
ljust lower lstrip ord owner_name partition percentFormat pop range remove replace reverse rfind rjust rpartition rsplit rstrip
setdefault sorted splitlines startswith str strip swapcase title update upper values warn zfill
"""

ATEN = frozenset(
    " ".join(
        (_ARITHMETIC, _COMPARISON, _COMPLEX, _REDUCTION, _LINEAR_ALGEBRA, _FOURIER, _LAYERS, _SHAPE, _MAKING, _LANGUAGE)
    ).split()
)
"""Operators of torch, by name."""

_PRIM_NAMES = """
ConstantChunk EnumName EnumValue IfThenElse NumToTensor RaiseException StringIndex TupleIndex TupleUnpack Uninitialized
VarConcat VarStack abs data device dtype index is_cpu is_cuda is_meta is_mkldnn is_mps is_nested is_quantized is_sparse is_xla
itemsize layout max min nbytes rangelist requires_grad tolist type unchecked_cast unchecked_unwrap_optional
"""
PRIM = frozenset(_PRIM_NAMES.split())
"""Operators of the language."""


def is_allowed(name: str) -> bool:
    """Whether an operator of torch is on the list, or works in place like one that is."""
    return name in ATEN or (name.endswith("_") and not name.endswith("__") and name[:-1] in ATEN)
