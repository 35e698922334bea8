"""The frozen table of operators that a Program may name. Data only; no torch.

A key is "namespace.operator.overload", the name FX prints. Everything here works on dense strided tensors and numbers
alone and, but for a few, exists on CPU and CUDA devices. Left out on purpose: whatever touches files, storage
internals, devices, streams or the process, and kernels that one kind of device has (oneDNN, cuDNN, fused attention).
Attention has a key of its own, which each kind of device runs in its own way.
"""

from __future__ import annotations


def _expand(namespace: str, words: str) -> tuple[str, ...]:
    """Read "add.Scalar|Tensor relu" as two overloads of one operator and the default overload of another."""
    keys: list[str] = []
    for word in words.split():
        name, _, overloads = word.partition(".")
        keys += [f"{namespace}.{name}.{overload}" for overload in (overloads or "default").split("|")]
    return tuple(keys)


ATEN: tuple[str, ...] = _expand(
    "aten",
    """
__and__.Scalar|Tensor __iand__.Scalar|Tensor __ilshift__.Scalar|Tensor __ior__.Scalar|Tensor __irshift__.Scalar|Tensor
__ixor__.Scalar|Tensor __lshift__.Scalar|Tensor __or__.Scalar|Tensor __rshift__.Scalar|Tensor __xor__.Scalar|Tensor
_adaptive_avg_pool2d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d _adaptive_avg_pool3d_backward
_addmm_activation _assert_async.default|msg _assert_scalar _assert_tensor_metadata _batch_norm_with_update
_batch_norm_with_update_functional _cdist_backward
_cdist_forward _chunk_cat _conj _conj_copy _conj_physical _ctc_loss.Tensor|default _ctc_loss_backward.Tensor|default
_dirichlet_grad _efficientzerotensor _embedding_bag _embedding_bag_backward _embedding_bag_dense_backward
_embedding_bag_forward_only _embedding_bag_per_sample_weights_backward
_fake_quantize_learnable_per_channel_affine
_fake_quantize_learnable_per_channel_affine_backward _fake_quantize_learnable_per_tensor_affine
_fake_quantize_learnable_per_tensor_affine_backward _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
_fft_c2c _fft_c2r _fft_r2c _foreach_abs _foreach_abs_ _foreach_acos
_foreach_acos_ _foreach_add.List|Scalar|ScalarList|Tensor _foreach_add_.List|Scalar|ScalarList|Tensor
_foreach_addcdiv.Scalar|ScalarList|Tensor _foreach_addcdiv_.Scalar|ScalarList|Tensor
_foreach_addcmul.Scalar|ScalarList|Tensor _foreach_addcmul_.Scalar|ScalarList|Tensor _foreach_asin _foreach_asin_
_foreach_atan _foreach_atan_ _foreach_ceil _foreach_ceil_ _foreach_clamp_max.List|Scalar|ScalarList
_foreach_clamp_max_.List|Scalar|ScalarList _foreach_clamp_min.List|Scalar|ScalarList
_foreach_clamp_min_.List|Scalar|ScalarList _foreach_clone _foreach_copy _foreach_copy_ _foreach_cos _foreach_cos_
_foreach_cosh _foreach_cosh_ _foreach_div.List|Scalar|ScalarList|Tensor _foreach_div_.List|Scalar|ScalarList|Tensor
_foreach_erf _foreach_erf_ _foreach_erfc _foreach_erfc_ _foreach_exp _foreach_exp_ _foreach_expm1 _foreach_expm1_
_foreach_floor _foreach_floor_ _foreach_frac _foreach_frac_ _foreach_lerp.List|Scalar|ScalarList
_foreach_lerp_.List|Scalar|ScalarList _foreach_lgamma _foreach_lgamma_ _foreach_log _foreach_log10 _foreach_log10_
_foreach_log1p _foreach_log1p_ _foreach_log2 _foreach_log2_ _foreach_log_ _foreach_max
_foreach_maximum.List|Scalar|ScalarList _foreach_maximum_.List|Scalar|ScalarList
_foreach_minimum.List|Scalar|ScalarList _foreach_minimum_.List|Scalar|ScalarList _foreach_mm
_foreach_mul.List|Scalar|ScalarList|Tensor _foreach_mul_.List|Scalar|ScalarList|Tensor _foreach_neg _foreach_neg_
_foreach_norm.Scalar _foreach_pow.List|Scalar|ScalarAndTensor|ScalarList _foreach_pow_.List|Scalar|ScalarList
_foreach_powsum.Scalar _foreach_reciprocal _foreach_reciprocal_ _foreach_round _foreach_round_ _foreach_rsqrt
_foreach_rsqrt_ _foreach_sigmoid _foreach_sigmoid_ _foreach_sign _foreach_sign_ _foreach_sin _foreach_sin_
_foreach_sinh _foreach_sinh_ _foreach_sqrt _foreach_sqrt_ _foreach_sub.List|Scalar|ScalarList
_foreach_sub_.List|Scalar|ScalarList _foreach_tan _foreach_tan_ _foreach_tanh _foreach_tanh_ _foreach_trunc
_foreach_trunc_ _foreach_zero _foreach_zero_ _functional_assert_async.msg _functional_assert_scalar
_fused_adagrad_.default|tensor_lr _fused_adam_.default|tensor_lr
_fused_adamw_.default|tensor_lr _fused_moving_avg_obs_fq_helper_functional
_fused_sgd_.default|tensor_lr _histogramdd_bin_edges _histogramdd_from_bin_cts
_histogramdd_from_bin_tensors _index_put_impl_ _int_mm
_linalg_check_errors _linalg_det _linalg_eigh _linalg_eigvals
_linalg_slogdet _linalg_solve_ex _linalg_svd _local_scalar_dense _log_softmax _log_softmax_backward_data
_native_batch_norm_legit.default|no_stats _native_batch_norm_legit_functional
_native_batch_norm_legit_no_training _native_multi_head_attention
_neg_view _neg_view_copy _pdist_backward _pdist_forward _prelu_kernel _prelu_kernel_backward _reshape_alias
_reshape_copy _safe_softmax _sample_dirichlet _scaled_mm _segment_reduce_backward _softmax _softmax_backward_data
_standard_gamma _standard_gamma_grad _to_copy _transformer_encoder_layer_fwd
_trilinear _unique _unique2 _unsafe_index.Tensor _unsafe_index_put
_unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view _upsample_bicubic2d_aa
_upsample_bicubic2d_aa_backward _upsample_bilinear2d_aa _upsample_bilinear2d_aa_backward _upsample_nearest_exact1d
_upsample_nearest_exact1d_backward _upsample_nearest_exact2d _upsample_nearest_exact2d_backward
_upsample_nearest_exact3d _upsample_nearest_exact3d_backward _weight_norm_interface _weight_norm_interface_backward
abs abs_ acos acos_ acosh acosh_ adaptive_max_pool2d adaptive_max_pool2d_backward adaptive_max_pool3d
adaptive_max_pool3d_backward add.Scalar|Tensor add_.Scalar|Tensor addbmm addbmm_ addcdiv addcdiv_ addcmul addcmul_
addmm addmm_ addmv addmv_ addr addr_ alias alias_copy all.default|dim|dims allclose amax amin aminmax angle
any.default|dim|dims arange.default|start|start_step argmax argmin as_strided as_strided_copy as_strided_scatter
asin asin_ asinh asinh_ atan atan2 atan2_ atan_ atanh atanh_ avg_pool2d avg_pool2d_backward avg_pool3d
avg_pool3d_backward baddbmm baddbmm_ batch_norm_backward bernoulli.Tensor|default|p bernoulli_.Tensor|float
binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits bincount binomial
bitwise_and.Scalar|Scalar_Tensor|Tensor bitwise_and_.Scalar|Tensor
bitwise_left_shift.Scalar_Tensor|Tensor|Tensor_Scalar bitwise_left_shift_.Tensor|Tensor_Scalar bitwise_not
bitwise_not_ bitwise_or.Scalar|Scalar_Tensor|Tensor bitwise_or_.Scalar|Tensor
bitwise_right_shift.Scalar_Tensor|Tensor|Tensor_Scalar bitwise_right_shift_.Tensor|Tensor_Scalar
bitwise_xor.Scalar|Scalar_Tensor|Tensor bitwise_xor_.Scalar|Tensor block_diag bmm bucketize.Scalar|Tensor cat cauchy
cauchy_ ceil ceil_ celu celu_ channel_shuffle cholesky cholesky_inverse cholesky_solve clamp.Tensor|default
clamp_.Tensor|default clamp_max.Tensor|default clamp_max_.Tensor|default clamp_min.Tensor|default
clamp_min_.Tensor|default clone col2im complex conj_physical conj_physical_ constant_pad_nd convolution
convolution_backward copy copy_ copysign.Scalar|Tensor copysign_.Scalar|Tensor cos cos_ cosh cosh_
count_nonzero.default|dim_IntList cummax cummin cumprod cumprod_ cumsum cumsum_ deg2rad deg2rad_ detach detach_
detach_copy diag_embed diagonal diagonal_backward diagonal_copy diagonal_scatter digamma digamma_ dist
div.Scalar|Scalar_mode|Tensor|Tensor_mode div_.Scalar|Scalar_mode|Tensor|Tensor_mode dot elu elu_ elu_backward
embedding embedding_dense_backward embedding_renorm embedding_renorm_ empty.memory_format
empty_like empty_permuted empty_strided eq.Scalar|Tensor
eq_.Scalar|Tensor equal erf erf_ erfc erfc_ erfinv erfinv_ exp exp2 exp2_ exp_ expand expand_copy expm1 expm1_
exponential exponential_
eye.default|m fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask
fill.Scalar|Tensor fill_.Scalar|Tensor flip floor floor_
floor_divide.Scalar|default floor_divide_.Scalar|Tensor fmax fmin fmod.Scalar|Tensor fmod_.Scalar|Tensor frac frac_
fractional_max_pool2d fractional_max_pool2d_backward fractional_max_pool3d fractional_max_pool3d_backward
frexp.Tensor full full_like gather gcd gcd_ ge.Scalar|Tensor ge_.Scalar|Tensor gelu gelu_ gelu_backward geometric
geometric_ geqrf glu glu_backward glu_jvp grid_sampler_2d grid_sampler_2d_backward grid_sampler_3d
grid_sampler_3d_backward gt.Scalar|Tensor gt_.Scalar|Tensor hardshrink hardshrink_backward hardsigmoid hardsigmoid_
hardsigmoid_backward hardswish hardswish_ hardswish_backward hardtanh hardtanh_ hardtanh_backward hash_tensor
heaviside heaviside_ histc histogram.bin_ct|bins_tensor huber_loss huber_loss_backward hypot
hypot_ i0 i0_ igamma igamma_ igammac igammac_ im2col
index.Tensor index_add index_add_ index_copy index_copy_ index_fill.int_Scalar|int_Tensor
index_fill_.int_Scalar|int_Tensor index_put index_put_ index_reduce index_reduce_ index_select
isin.Scalar_Tensor|Tensor_Scalar|Tensor_Tensor isinf isnan isneginf isposinf kthvalue lcm lcm_ ldexp.Tensor ldexp_
le.Scalar|Tensor le_.Scalar|Tensor leaky_relu leaky_relu_ leaky_relu_backward lerp.Scalar|Tensor lerp_.Scalar|Tensor
lgamma lgamma_ lift lift_fresh lift_fresh_copy linalg_cholesky_ex linalg_cross linalg_eig linalg_householder_product
linalg_inv_ex linalg_ldl_factor_ex linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor_ex linalg_lu_solve
linalg_matrix_exp linalg_pinv.atol_rtol_tensor linalg_qr linalg_solve_triangular linalg_vector_norm
linspace.Scalar_Tensor|Tensor_Scalar|Tensor_Tensor|default log log10 log10_ log1p log1p_ log2 log2_ log_ log_normal
log_normal_ log_sigmoid_backward log_sigmoid_forward logaddexp logaddexp2 logcumsumexp logical_and logical_and_
logical_not logical_not_ logical_or logical_or_ logical_xor logical_xor_ logit logit_ logit_backward
logspace.Scalar_Tensor|Tensor_Scalar|Tensor_Tensor|default logsumexp lt.Scalar|Tensor lt_.Scalar|Tensor lu_unpack
masked_fill.Scalar|Tensor masked_fill_.Scalar|Tensor masked_scatter masked_scatter_ masked_scatter_backward
masked_select max.default|dim max_pool2d_with_indices max_pool2d_with_indices_backward max_pool3d_with_indices
max_pool3d_with_indices_backward max_unpool2d max_unpool3d maximum mean.default|dim median.default|dim
min.default|dim minimum mish mish_ mish_backward mm mode mse_loss mse_loss_backward mul.Scalar|Tensor
mul_.Scalar|Tensor multi_margin_loss multi_margin_loss_backward multilabel_margin_loss_backward
multilabel_margin_loss_forward multinomial mv mvlgamma mvlgamma_ nan_to_num nan_to_num_ nanmedian.default|dim nansum
narrow_copy native_batch_norm native_batch_norm_backward native_dropout native_dropout_backward native_group_norm
native_group_norm_backward native_layer_norm native_layer_norm_backward ne.Scalar|Tensor ne_.Scalar|Tensor neg neg_
new_empty new_empty_strided new_full new_ones new_zeros nextafter nextafter_ nll_loss2d_backward nll_loss2d_forward
nll_loss_backward nll_loss_forward nonzero nonzero_static
norm.Scalar|ScalarOpt_dim|ScalarOpt_dim_dtype|ScalarOpt_dtype
normal.Tensor_Tensor|Tensor_float|float_Tensor|float_float normal_ normal_functional ones ones_like ormqr permute
permute_copy pixel_shuffle pixel_unshuffle poisson polar polygamma polygamma_ pow.Scalar|Tensor_Scalar|Tensor_Tensor
pow_.Scalar|Tensor prod.default|dim_int put put_ rad2deg rad2deg_ rand rand_like randint.default|low
randint_like.Tensor|default|low_dtype randn randn_like random.default|from|to random_.default|from|to randperm
range.default|step reciprocal reciprocal_ reflection_pad1d reflection_pad1d_backward reflection_pad2d
reflection_pad2d_backward reflection_pad3d reflection_pad3d_backward relu relu_
remainder.Scalar|Scalar_Tensor|Tensor remainder_.Scalar|Tensor renorm renorm_ repeat repeat_interleave.Tensor
replication_pad1d replication_pad1d_backward replication_pad2d replication_pad2d_backward replication_pad3d
replication_pad3d_backward roll rot90 round.decimals|default round_.decimals|default rrelu_with_noise
rrelu_with_noise_ rrelu_with_noise_backward rrelu_with_noise_functional rsqrt rsqrt_ rsub.Scalar|Tensor
scalar_tensor scatter.reduce|src|value|value_reduce scatter_.reduce|src|value|value_reduce scatter_add scatter_add_
scatter_reduce.two scatter_reduce_.two searchsorted.Scalar|Tensor segment_reduce select.int select_backward
select_copy.int select_scatter sgn sgn_ sigmoid sigmoid_ sigmoid_backward sign sign_ signbit silu silu_
silu_backward sin sin_ sinc sinc_ sinh sinh_ slice.Tensor slice_backward slice_copy.Tensor slice_inverse
slice_scatter smooth_l1_loss smooth_l1_loss_backward soft_margin_loss soft_margin_loss_backward softplus
softplus_backward softshrink softshrink_backward sort.default|stable special_airy_ai special_bessel_j0
special_bessel_j1 special_bessel_y0 special_bessel_y1 special_chebyshev_polynomial_t.default|n_scalar|x_scalar
special_chebyshev_polynomial_u.default|n_scalar|x_scalar special_chebyshev_polynomial_v.default|n_scalar|x_scalar
special_chebyshev_polynomial_w.default|n_scalar|x_scalar special_entr special_erfcx
special_hermite_polynomial_h.default|n_scalar|x_scalar special_hermite_polynomial_he.default|n_scalar|x_scalar
special_i0e special_i1 special_i1e special_laguerre_polynomial_l.default|n_scalar|x_scalar
special_legendre_polynomial_p.default|n_scalar|x_scalar special_log_ndtr special_modified_bessel_i0
special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_ndtri
special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1
special_shifted_chebyshev_polynomial_t.default|n_scalar|x_scalar
special_shifted_chebyshev_polynomial_u.default|n_scalar|x_scalar
special_shifted_chebyshev_polynomial_v.default|n_scalar|x_scalar
special_shifted_chebyshev_polynomial_w.default|n_scalar|x_scalar special_spherical_bessel_j0
special_xlog1py.default|other_scalar|self_scalar special_zeta.default|other_scalar|self_scalar split.Tensor
split_copy.Tensor split_with_sizes split_with_sizes_copy sqrt sqrt_ squeeze.default|dim|dims
squeeze_.default|dim|dims squeeze_copy.default|dim|dims stack std.correction std_mean.correction sub.Scalar|Tensor
sub_.Scalar|Tensor sum.default|dim_IntList sym_numel sym_size.int sym_storage_offset sym_stride.int t t_ t_copy take
tan tan_ tanh tanh_ tanh_backward threshold threshold_ threshold_backward topk trace transpose.int transpose_
transpose_copy.int triangular_solve tril tril_ tril_indices triu triu_ triu_indices true_divide.Tensor trunc trunc_
unbind.int unbind_copy.int unfold unfold_backward unfold_copy uniform uniform_ unique_consecutive unique_dim
unique_dim_consecutive unsafe_split.Tensor unsafe_split_with_sizes unsqueeze unsqueeze_ unsqueeze_copy
upsample_bicubic2d upsample_bicubic2d_backward upsample_bilinear2d upsample_bilinear2d_backward upsample_linear1d
upsample_linear1d_backward upsample_nearest1d upsample_nearest1d_backward upsample_nearest2d
upsample_nearest2d_backward upsample_nearest3d upsample_nearest3d_backward upsample_trilinear3d
upsample_trilinear3d_backward var.correction var_mean.correction vdot view.default|dtype view_as_complex
view_as_complex_copy view_as_real view_as_real_copy view_copy.default|dtype where.self
xlogy.Scalar_Other|Scalar_Self|Tensor xlogy_.Scalar_Other|Tensor zero zero_ zeros zeros_like
""",
)

CPU_ONLY: frozenset[str] = frozenset(
    _expand("aten", "_histogramdd_bin_edges _histogramdd_from_bin_cts _histogramdd_from_bin_tensors")
    + _expand("aten", "histogram.bin_ct|bins_tensor")
)
"""Those of them that other devices have no kernel for: there they run on the CPU of the daemon's machine."""

FUNCTIONS: tuple[str, ...] = (
    "getitem",
    *(f"operator.{name}" for name in (
        "add sub mul floordiv truediv mod neg pos abs pow and_ or_ xor not_ lshift rshift eq ne lt le gt ge"
    ).split()),
    *(f"math.{name}" for name in (
        "ceil floor trunc sqrt cos cosh sin sinh tan tanh asin acos atan log2"
    ).split()),
    *(f"torch.sym_{name}" for name in "int float max min not ite sum".split()),
    *(f"torch._sym_{name}" for name in "sqrt cos cosh sin sinh tan tanh asin acos atan log2".split()),
    "builtins.round",
)  # fmt: skip
"""Functions on plain numbers (symbolic sizes), and "getitem", which takes one result out of several."""

PORTABLE: tuple[str, ...] = (
    "genie.attention", "genie.attention_backward", "genie.grouped_mm", "genie.grouped_mm_backward",
    "genie.generator_state", "genie.set_generator_state", "genie.lstm_layer", "genie.lstm_layer_backward",
)  # fmt: skip
"""Operators of our own: one meaning everywhere, a kernel of its own on each kind of device."""

HIGHER_ORDER: tuple[str, ...] = tuple(
    f"higher_order.{name}" for name in "cond map_impl scan while_loop while_loop_stack_output".split()
)
"""Branches and loops: operators that run sub-programs, which their arguments name."""

OPERATORS: frozenset[str] = frozenset(ATEN + FUNCTIONS + PORTABLE + HIGHER_ORDER)
